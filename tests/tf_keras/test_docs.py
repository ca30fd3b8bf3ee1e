"""The page for users of tfmot; the other pages are in tests/test_docs.py."""

import pytest

from tests import documents


@pytest.mark.slow
def test_the_page_for_users_of_tfmot_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = documents.run_page(documents.DOCS / "guides" / "from-tfmot.md")
    assert names["pruned"].__class__ is names["tf_keras"].Sequential
