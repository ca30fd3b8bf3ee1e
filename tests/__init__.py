"""Tests; a package, since other distributions install a package of this name."""
