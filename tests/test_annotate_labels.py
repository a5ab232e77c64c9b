"""Labels: a class per object, kept with undo, given at the start or typed, and files from before there were any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from annotator import as_version
from i2vpp.annotate.errors import StaleRevisionError
from i2vpp.annotate.storage.labels import Classes, Label, LabelChoice, read_labels
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import ObjectInfo, StoredMask
from i2vpp.errors import I2VPPError, PromptError

RED = "#e01020"


def reopen(path: Path) -> Annotation:
    return Annotation(path, height=8, width=12, frames=4, video="clip.mp4")


def test_labels_are_kept_with_undo(tmp_path: Path) -> None:
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("Object") as edit:
            edit.add_object("Disc")
        with annotation.edit("Add class") as edit:
            cup = edit.add_label(" cup ", RED)
            edit.set_label(1, cup.number)
        assert annotation.labels() == [Label(number=1, name="cup", color=RED)]
        assert annotation.objects()[0].label == 1
        annotation.undo()
        assert (annotation.labels(), annotation.objects()[0].label) == ([], None)
        annotation.redo()
        with annotation.edit("Change class") as edit:
            edit.change_label(1, name="mug", color="#00FF00")
        assert annotation.labels() == [Label(number=1, name="mug", color="#00ff00")]
        with annotation.edit("Delete class") as edit:
            edit.delete_label(1)
        assert (annotation.labels(), annotation.objects()[0].label) == ([], None)
        annotation.undo()
        annotation.undo()
    with reopen(tmp_path / "a") as annotation:
        assert annotation.labels() == [Label(number=1, name="cup", color=RED)]
        assert annotation.objects()[0].label == 1
        with annotation.edit("Delete") as edit:
            edit.delete_object(1)
        annotation.undo()
        assert annotation.objects()[0].label == 1, "a deleted object comes back with its class"


def test_what_makes_no_sense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("x") as edit:
            edit.add_object()
            edit.add_label("cup")
            edit.add_label("kettle")
        revision, before = annotation.revision, annotation.labels()
        assert len({label.color for label in before}) == 2
        for change, message in (
            (lambda edit: edit.add_label("cup"), "there is a label 'cup' already"),
            (lambda edit: edit.change_label(2, name="cup"), "there is a label 'cup' already"),
            (lambda edit: edit.add_label(""), "name must be 1 to 100"),
            (lambda edit: edit.add_label("x", "red"), "color must be #rrggbb"),
            (lambda edit: edit.set_label(1, 9), "there is no label 9"),
            (lambda edit: edit.set_label(7, 1), "there is no object 7"),
            (lambda edit: edit.delete_label(3), "there is no label 3"),
        ):
            with pytest.raises(PromptError, match=message), annotation.edit("y") as edit:
                change(edit)
        assert (annotation.revision, annotation.labels()) == (revision, before)
        with pytest.raises(StaleRevisionError), annotation.edit("y", expected=revision - 1) as edit:
            edit.delete_label(1)


def test_labels_that_are_given_at_the_start_are_no_step(tmp_path: Path) -> None:
    given = [LabelChoice(name="dog"), LabelChoice(name="cup", color=RED)]
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("Add class") as edit:
            edit.add_label("cat")
        annotation.undo()
        annotation.offer_labels(given)
        annotation.offer_labels(given)
        assert [label.name for label in annotation.labels()] == ["dog", "cup"]
        assert annotation.labels()[1].color == RED
        assert (annotation.undo_label, annotation.redo_label) == (None, "Add class")
        annotation.redo()
        assert [label.name for label in annotation.labels()] == ["cat", "dog", "cup"]


def test_a_file_of_labels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("# kinds\n\n coffee cup  #E01020\nkettle\n", encoding="utf-8-sig")
    assert read_labels(path) == [LabelChoice(name="coffee cup", color="#E01020"), LabelChoice(name="kettle")]
    for text, message in (
        ("a\nb\na\n", "line 3: the label 'a' is there twice"),
        ("# only\n", "holds 0 labels"),
        ("x" * 101, "line 1: name must be 1 to 100"),
    ):
        path.write_text(text)
        with pytest.raises(I2VPPError, match=message):
            read_labels(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(I2VPPError, match="no text in UTF-8"):
        read_labels(path)
    with pytest.raises(I2VPPError, match="cannot read the labels"):
        read_labels(tmp_path / "gone.txt")


def test_classes_are_numbered_alike_for_all_videos() -> None:
    labels = [Label(number=n, name=name, color=RED) for n, name in ((2, "dog"), (5, "cup"))]
    objects = [ObjectInfo(id=i, name="x", color=RED, label=label) for i, label in ((1, 5), (4, 2))]
    assert Classes.of(labels, objects) == Classes(names=("dog", "cup"), of_object={1: 1, 4: 0})
    bare = ObjectInfo(id=7, name="y", color=RED)
    assert Classes.of(labels, [*objects, bare]) == Classes(names=("dog", "cup", "object"), of_object={1: 1, 4: 0, 7: 2})
    assert Classes.of([], [bare]).names == ("object",)


def test_a_store_from_before_labels_opens_with_its_undo(tmp_path: Path) -> None:
    mask = StoredMask.of(np.eye(8, 12, dtype=bool))
    with reopen(tmp_path / "a") as annotation:
        with annotation.edit("Object") as edit:
            edit.add_object("Disc", RED)
            edit.set_mask(1, 0, mask)
        with annotation.edit("Rename") as edit:
            edit.change_object(1, name="Plate")
        annotation.undo()
    as_version(tmp_path / "a", 1)
    with reopen(tmp_path / "a") as annotation:
        assert annotation.objects() == [ObjectInfo(id=1, name="Disc", color=RED)]
        annotation.redo()
        assert annotation.objects()[0].name == "Plate"
        annotation.undo()
        annotation.undo()
        assert annotation.objects() == []
        annotation.redo()
        assert annotation.mask(1, 0) == mask
        with annotation.edit("Class") as edit:
            edit.set_label(1, edit.add_label("plate").number)
    with reopen(tmp_path / "a") as annotation:
        assert annotation.objects()[0].label == 1
