"""Tests for `tf_keras`, which run in a process of their own."""
