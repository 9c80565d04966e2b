"""Neighbouring relations in words."""

from dpjax.accounting.events import Relation

WORDS = {
    Relation.ADD_OR_REMOVE_ONE: "add or remove one example",
    Relation.REPLACE_ONE: "replace one example",
    Relation.REPLACE_SPECIAL: "replace one example by one that contributes nothing",
}
