"""Every neighbouring relation has its words."""

import dp_accounting

from dpjax.accounting import relations


def test_every_relation_has_words_of_its_own():
    assert set(relations.WORDS) == set(dp_accounting.NeighboringRelation)
    assert len(set(relations.WORDS.values())) == len(relations.WORDS)


def test_the_words_tell_adding_from_replacing():
    words = {relation.name: text for relation, text in relations.WORDS.items()}
    assert words["ADD_OR_REMOVE_ONE"].startswith("add or remove one")
    assert words["REPLACE_ONE"] == "replace one example"
    assert "contributes nothing" in words["REPLACE_SPECIAL"]
