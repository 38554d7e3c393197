"""What is published stays what it was, appears whole or not at all, and can be walked back."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.versions import LOGITS, PIXELS, draft, files, publish
from workbench.backends.table import BACKENDS
from workbench.errors import Refused, WorkbenchError
from workbench.registry.bundle import Bundle, check_golden
from workbench.registry.manifest import Golden
from workbench.registry.store import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """1.0.0 and 1.1.0 published, `production` pointed at one after the other."""
    registry = Registry(tmp_path / "registry")
    for version in ("1.0.0", "1.1.0"):
        publish(registry, version)
        registry.point("leaf", "production", version, reason=f"promote {version}", expected=None)
    return registry


def rewrite_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.chmod(0o644)
    path.write_text(json.dumps(content))


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def test_a_published_bundle_is_complete_read_only_and_opens(registry: Registry) -> None:
    bundle = registry.bundle("leaf", "1.0.0")
    bundle.verify()
    names = {path.name for path in bundle.folder.iterdir()}
    assert names == {"MODEL_CARD.md", "golden.npz", "manifest.json", "model.bin"}
    assert {path.stat().st_mode & 0o777 for path in bundle.folder.iterdir()} == {0o444}
    assert bundle.artifact.read() == b"weights of 1.0.0"
    assert bundle.digest == hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()
    pixels, logits = bundle.golden()
    assert np.array_equal(pixels, PIXELS)
    assert np.array_equal(logits, LOGITS)
    assert registry.verify() == []
    assert list((registry.root / ".tmp").iterdir()) == []


def test_versions_are_listed_by_precedence_and_models_by_name(registry: Registry) -> None:
    for version in ("1.10.0", "2.0.0", "2.0.0-rc.2", "2.0.0-rc.10"):
        publish(registry, version)
    publish(registry, "1.0.0", name="fruit")
    (registry.root / "empty").mkdir()
    assert registry.versions("leaf") == ["1.0.0", "1.1.0", "1.10.0", "2.0.0-rc.2", "2.0.0-rc.10", "2.0.0"]
    assert registry.names() == ["fruit", "leaf"]
    assert registry.versions("empty") == registry.versions("absent") == []


def test_an_existing_version_is_never_published_again(registry: Registry) -> None:
    before = registry.bundle("leaf", "1.1.0").digest
    for version in ("1.1.0", "1.1.0+second.build"):
        with pytest.raises(Refused, match=r"leaf 1\.1\.0 exists already"):
            publish(registry, version)
    assert registry.bundle("leaf", "1.1.0").digest == before
    assert registry.verify() == []


def test_a_build_that_fails_publishes_nothing(registry: Registry) -> None:
    def build(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"half")
        raise WorkbenchError("the disk is on fire")

    with pytest.raises(WorkbenchError, match="on fire"):
        registry.publish(draft("2.0.0"), build)
    assert registry.versions("leaf") == ["1.0.0", "1.1.0"]
    assert list((registry.root / ".tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda at: (at / "more.txt").symlink_to("/etc/hostname"), "plain files only, and more.txt is none"),
        (lambda at: (at / "more").mkdir(), "plain files only, and more is none"),
        (lambda at: (at / "model.bin").unlink(), "files does not list `model.bin`"),
        (files(b"other"), "files and artifact disagree about `model.bin`"),
    ],
)
def test_what_the_draft_does_not_describe_is_not_published(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    def build(folder: Path) -> None:
        files()(folder)
        change(folder)

    registry = Registry(tmp_path)
    with pytest.raises(WorkbenchError, match=message):
        registry.publish(draft(), build)
    assert registry.names() == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "a\\b", "", ".", "..", ".tmp", "X", "a\n", "ü", "a" * 65]
)
def test_a_name_that_could_be_a_path_is_refused_everywhere(registry: Registry, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: registry.versions(name),
        lambda: registry.aliases(name),
        lambda: registry.bundle(name, "1.0.0"),
        lambda: registry.resolve(name, "production"),
        lambda: registry.resolve("leaf", name),
        lambda: registry.point("leaf", name, "1.0.0", reason="r", expected=None),
        lambda: registry.rollback("leaf", name),
    ]
    for call in calls:
        with pytest.raises(WorkbenchError, match="is not a name for"):
            call()
    with pytest.raises(ValueError, match="is not a name for a model"):
        draft(name=name)


@pytest.mark.parametrize("version", ["../leaf", "..", "1.0", "latest"])
def test_a_version_that_is_no_number_is_refused(registry: Registry, version: str) -> None:
    with pytest.raises(WorkbenchError, match="is not a version number"):
        registry.bundle("leaf", version)


def flip_a_bit(bundle: Bundle) -> None:
    path = bundle.folder / "model.bin"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    damage(path, bytes(data))


def truncate(bundle: Bundle) -> None:
    path = bundle.folder / "golden.npz"
    damage(path, path.read_bytes()[:-5])


def replace_by_link(bundle: Bundle) -> None:
    path = bundle.folder / "model.bin"
    path.rename(bundle.folder.parent / "elsewhere")
    path.symlink_to(bundle.folder.parent / "elsewhere")


def replace_by_pipe(bundle: Bundle) -> None:
    (bundle.folder / "model.bin").unlink()
    os.mkfifo(bundle.folder / "model.bin")


@pytest.mark.parametrize(
    ("harm", "file", "what"),
    [
        (flip_a_bit, "model.bin", "was changed since it was published: its sha256 differs"),
        (truncate, "golden.npz", "bytes, was published with"),
        (lambda bundle: (bundle.folder / "MODEL_CARD.md").unlink(), "MODEL_CARD.md", "is missing"),
        (lambda bundle: (bundle.folder / "data").write_bytes(b"x"), "data", "is not in the manifest"),
        (replace_by_link, "model.bin", "is a symbolic link"),
        (lambda bundle: (bundle.folder / "more").symlink_to("/etc"), "more", "is a symbolic link"),
        (replace_by_pipe, "model.bin", "is not a plain file"),
    ],
)
def test_a_changed_bundle_is_found_and_no_alias_can_be_pointed_at_it(
    registry: Registry, harm: Callable[[Bundle], None], file: str, what: str
) -> None:
    bundle = registry.bundle("leaf", "1.0.0")
    harm(bundle)
    (problem,) = (problem for problem in registry.verify() if problem.path.parent == bundle.folder)
    assert problem.path == bundle.folder / file
    assert what in problem.what
    with pytest.raises(WorkbenchError, match=what):
        bundle.verify()
    with pytest.raises(WorkbenchError, match="is not what was published"):
        registry.point("leaf", "production", "1.0.0", reason="r", expected=None)


def test_every_problem_of_a_bundle_is_listed_at_once(registry: Registry) -> None:
    bundle = registry.bundle("leaf", "1.0.0")
    flip_a_bit(bundle)
    (bundle.folder / "MODEL_CARD.md").unlink()
    (bundle.folder / "data").write_bytes(b"x")
    with pytest.raises(WorkbenchError) as caught:
        bundle.verify()
    assert len(caught.value.message.splitlines()) == 4


def test_damaged_golden_data_are_not_returned(registry: Registry) -> None:
    truncate(registry.bundle("leaf", "1.0.0"))
    with pytest.raises(WorkbenchError, match="its sha256 differs"):
        registry.bundle("leaf", "1.0.0").golden()


@pytest.mark.parametrize(
    "path", ["../model.bin", "..", "/etc/passwd", "a/b", "a\\b", "C:x", "", "a\0b", "manifest.json"]
)
def test_a_manifest_cannot_name_a_file_outside_its_folder(registry: Registry, path: str) -> None:
    bundle = registry.bundle("leaf", "1.0.0")
    rewrite_manifest(bundle, lambda content: content["files"][0].update(path=path))
    with pytest.raises(WorkbenchError, match="is not a plain file name"):
        registry.bundle("leaf", "1.0.0")
    assert [problem.path for problem in registry.verify()] == [bundle.folder]
    with pytest.raises(ValueError, match="is not a plain file name"):
        draft(artifact=draft().artifact.model_copy(update={"file": path}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "has schema_version 2; this krishi-bench reads 1"),
        (lambda m: m.pop("schema_version"), "has schema_version None"),
        (lambda m: m.update(version="9.0.0"), r"holds leaf 9\.0\.0: it was moved"),
        (lambda m: m.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda m: m["class_names"].pop(), "2 class names for a model of 3 classes"),
        (lambda m: m["files"].pop(1), r"files does not list `golden\.npz`"),
        (lambda m: m["files"].reverse(), "files are not sorted by path"),
        (lambda m: m["files"].insert(0, m["files"][0] | {"path": "GOLDEN.npz"}), "twice"),
        (lambda m: m["golden"].update(file="other.npz"), r"files does not list `other\.npz`"),
        (lambda m: m["golden"].update(atol=-1), "golden.atol: Input should be greater"),
        (lambda m: m["files"][0].update(sha256="abc"), r"files\[0\]\.sha256: String should match"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(
    registry: Registry, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite_manifest(registry.bundle("leaf", "1.0.0"), change)
    with pytest.raises(WorkbenchError, match=message):
        registry.bundle("leaf", "1.0.0")


def test_a_value_that_json_cannot_carry_is_refused_before_anything_appears(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    broken = draft().measured.model_copy(
        update={"parity": {"images": 1, "max_abs": float("nan"), "max_rel": 0.0, "top1_agreement": 1.0}}
    )
    with pytest.raises(WorkbenchError), pytest.warns(UserWarning, match="serialized value"):
        registry.publish(draft().model_copy(update={"measured": broken}), files())
    assert registry.names() == []


def test_resolve_takes_the_only_model_and_lists_several(registry: Registry) -> None:
    assert registry.resolve(None, "production").version == "1.1.0"
    assert registry.model_name(None) == registry.model_name("leaf") == "leaf"
    publish(registry, "1.0.0", name="fruit")
    for call in (lambda: registry.resolve(None, "production"), lambda: registry.model_name(None)):
        with pytest.raises(WorkbenchError, match="holds several models: fruit, leaf"):
            call()
    assert registry.resolve("leaf", "production").version == "1.1.0"


def test_resolve_says_what_is_missing(registry: Registry, tmp_path: Path) -> None:
    nowhere = Registry(tmp_path / "nowhere")
    for name in (None, "leaf"):
        with pytest.raises(WorkbenchError, match="nowhere does not exist"):
            nowhere.resolve(name, "production")
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(WorkbenchError, match="holds no model yet"):
        nowhere.resolve(None, "production")
    with pytest.raises(WorkbenchError, match="has no model `fruit`") as caught:
        registry.resolve("fruit", "production")
    assert caught.value.hint == "it has `leaf`"
    with pytest.raises(WorkbenchError, match="has no alias `canary`") as caught:
        registry.resolve("leaf", "canary")
    assert caught.value.hint == "it has `production`"
    with pytest.raises(WorkbenchError, match=r"has no version 3\.0\.0") as caught:
        registry.bundle("leaf", "3.0.0")
    assert caught.value.hint == "it has 1.0.0, 1.1.0"


def test_a_manifest_changed_since_the_alias_was_pointed_is_not_served(registry: Registry) -> None:
    bundle = registry.bundle("leaf", "1.1.0")
    rewrite_manifest(bundle, lambda content: content["class_names"].reverse())
    with pytest.raises(WorkbenchError, match="is not the manifest that `production` was pointed at"):
        registry.resolve("leaf", "production")
    (problem,) = registry.verify()
    assert problem.path == registry.root / "leaf" / "aliases.json"


def test_a_linked_version_or_model_folder_is_refused(registry: Registry) -> None:
    (registry.root / "leaf" / "2.0.0").symlink_to(registry.root / "leaf" / "1.0.0")
    (registry.root / "fruit").symlink_to(registry.root / "leaf")
    for name, version in (("leaf", "2.0.0"), ("fruit", "1.0.0")):
        with pytest.raises(WorkbenchError, match="is a symbolic link"):
            registry.bundle(name, version)
    assert registry.names() == ["leaf"]
    assert {problem.path.name for problem in registry.verify()} == {"2.0.0", "fruit"}


def test_pointing_counts_generations_and_keeps_the_history(registry: Registry) -> None:
    alias = registry.aliases("leaf")["production"]
    assert (alias.version, alias.generation) == ("1.1.0", 2)
    moves = [(move.version, move.reason) for move in alias.history]
    assert moves == [("1.0.0", "promote 1.0.0"), ("1.1.0", "promote 1.1.0")]
    assert alias.manifest_sha256 == registry.bundle("leaf", "1.1.0").digest


def test_pointing_at_the_same_version_again_changes_nothing(registry: Registry) -> None:
    before = (registry.root / "leaf" / "aliases.json").read_bytes()
    after = registry.point("leaf", "production", "1.1.0", reason="again", expected=2)
    assert after.generation == 2
    assert (registry.root / "leaf" / "aliases.json").read_bytes() == before


def test_an_alias_that_moved_meanwhile_is_not_moved_and_the_winner_named(registry: Registry) -> None:
    for expected in (0, 1, 3):
        with pytest.raises(Refused, match=r"moved to 1\.1\.0 meanwhile \(.* UTC: promote 1\.1\.0\)"):
            registry.point("leaf", "production", "1.0.0", reason="late", expected=expected)
    with pytest.raises(Refused, match="`canary` was expected to exist"):
        registry.point("leaf", "canary", "1.0.0", reason="late", expected=4)
    assert registry.resolve("leaf", "production").version == "1.1.0"


def test_the_stamp_changes_with_every_move_of_an_alias_and_with_nothing_else(registry: Registry) -> None:
    stamps = [registry.alias_stamp("leaf")]
    publish(registry, "2.0.0")
    registry.resolve("leaf", "production").verify()
    registry.point("leaf", "production", "1.1.0", reason="again", expected=None)
    assert registry.alias_stamp("leaf") == stamps[0]
    for step in (
        lambda: registry.point("leaf", "production", "2.0.0", reason="promote", expected=None),
        lambda: registry.rollback("leaf", "production"),
        lambda: registry.point("leaf", "canary", "2.0.0", reason="try", expected=None),
    ):
        step()
        stamps.append(registry.alias_stamp("leaf"))
    assert len(set(stamps)) == 4


def test_there_is_no_stamp_where_nothing_was_ever_pointed(tmp_path: Path) -> None:
    assert Registry(tmp_path / "nowhere").alias_stamp("leaf") is None
    publish(Registry(tmp_path), "1.0.0")
    assert Registry(tmp_path).alias_stamp("leaf") is None
    assert Registry(tmp_path).pointed("leaf", "production") is None


def test_what_an_alias_says_is_read_without_looking_at_the_version(registry: Registry) -> None:
    digest = registry.bundle("leaf", "1.1.0").digest
    shutil.rmtree(registry.root / "leaf" / "1.1.0")
    pointed = registry.pointed("leaf", "production")
    assert pointed is not None
    assert (pointed.version, pointed.manifest_sha256, pointed.generation) == ("1.1.0", digest, 2)


def test_a_damaged_record_of_collected_versions_is_found_and_no_number_is_given(registry: Registry) -> None:
    (registry.root / "leaf" / "collected.json").write_text("{}")
    assert [problem.path.name for problem in registry.verify()] == ["collected.json"]
    with pytest.raises(WorkbenchError, match="has schema_version None"):
        publish(registry, "2.0.0")
    assert registry.resolve("leaf", "production").version == "1.1.0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "has schema_version None"),
        (b'{"schema_version": 7}', "has schema_version 7"),
        (b'{"schema_version": 1, "aliases": {"a": {}}}', "is not a valid list of aliases"),
    ],
)
def test_damaged_aliases_are_an_error_not_an_empty_list(
    registry: Registry, content: bytes, message: str
) -> None:
    (registry.root / "leaf" / "aliases.json").write_bytes(content)
    with pytest.raises(WorkbenchError, match=message):
        registry.aliases("leaf")
    assert [problem.path.name for problem in registry.verify()] == ["aliases.json"]


def move(registry: Registry, version: str) -> None:
    registry.point("leaf", "production", version, reason="promote", expected=None)


def test_rollback_walks_further_back_each_time_and_then_says_there_is_no_more(registry: Registry) -> None:
    publish(registry, "1.2.0")
    move(registry, "1.2.0")
    assert registry.rollback("leaf", "production").version == "1.1.0"
    assert registry.rollback("leaf", "production").version == "1.0.0"
    with pytest.raises(Refused, match=r"`production` pointed at nothing before 1\.0\.0"):
        registry.rollback("leaf", "production")
    alias = registry.aliases("leaf")["production"]
    assert (alias.version, alias.generation) == ("1.0.0", 5)
    assert [move.reason for move in alias.history[-2:]] == ["rollback from 1.2.0", "rollback from 1.1.0"]
    assert registry.verify() == []


def test_rollback_after_a_rollback_and_a_promotion_skips_what_was_undone(registry: Registry) -> None:
    publish(registry, "1.2.0")
    registry.rollback("leaf", "production")
    move(registry, "1.2.0")
    assert registry.rollback("leaf", "production").version == "1.0.0"


def test_rollback_does_not_look_at_the_damaged_version_it_leaves(registry: Registry) -> None:
    shutil.rmtree(registry.root / "leaf" / "1.1.0")
    with pytest.raises(WorkbenchError):
        registry.resolve("leaf", "production")
    assert registry.rollback("leaf", "production").version == "1.0.0"
    assert registry.resolve("leaf", "production").version == "1.0.0"


def test_rollback_passes_over_a_damaged_version_only_when_asked_to_and_records_it(registry: Registry) -> None:
    publish(registry, "1.2.0")
    move(registry, "1.2.0")
    flip_a_bit(registry.bundle("leaf", "1.1.0"))
    with pytest.raises(
        Refused, match=r"cannot be returned to: 1\.1\.0 \(.*model\.bin: was changed"
    ) as caught:
        registry.rollback("leaf", "production")
    assert caught.value.hint == "repair it, or `krishi-bench rollback --past-damaged` returns to 1.0.0"
    assert registry.aliases("leaf")["production"].version == "1.2.0"
    assert registry.rollback("leaf", "production", past_damaged=True).version == "1.0.0"
    alias = registry.aliases("leaf")["production"]
    assert "passing over 1.1.0 (" in alias.history[-1].reason
    assert [move.version for move in alias.trail] == ["1.0.0"]


def test_rollback_moves_nothing_where_every_earlier_version_is_damaged(registry: Registry) -> None:
    rewrite_manifest(registry.bundle("leaf", "1.0.0"), lambda content: content["class_names"].reverse())
    with pytest.raises(Refused, match=r"can be returned to: 1\.0\.0 \(its manifest was changed\)"):
        registry.rollback("leaf", "production")
    assert registry.aliases("leaf")["production"].version == "1.1.0"


def test_verify_reports_strangers_and_old_leftovers_but_not_work_in_progress(registry: Registry) -> None:
    (registry.root / "Notes.txt").write_text("mine")
    (registry.root / "leaf" / "1.0").mkdir()
    for age_s, name in ((0, "young"), (25 * 3600, "old")):
        for path in (registry.root / ".tmp" / name, registry.root / "leaf" / f".aliases.json.{name}"):
            path.write_text("half")
            os.utime(path, (time.time() - age_s,) * 2)
    found = {p.path.relative_to(registry.root).as_posix(): p.what for p in registry.verify()}
    assert found == {
        ".tmp/old": "was left by an interrupted write; `krishi-bench gc --delete` removes it",
        "leaf/.aliases.json.old": "was left by an interrupted write; `krishi-bench gc --delete` removes it",
        "Notes.txt": "does not belong to a registry",
        "leaf/1.0": "does not belong to a registry",
    }


def test_a_registry_that_cannot_be_a_folder_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "registry"):
        registry = Registry(root)
        assert registry.names() == []
        with pytest.raises(WorkbenchError, match=r"cannot write .*file.*: Not a directory"):
            publish(registry, "1.0.0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_registry_can_be_read_and_says_that_it_cannot_be_written(registry: Registry) -> None:
    folders = [registry.root, registry.root / ".tmp", registry.root / "leaf"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert registry.resolve("leaf", "production").version == "1.1.0"
        with pytest.raises(WorkbenchError, match="cannot write"):
            publish(registry, "2.0.0")
        with pytest.raises(WorkbenchError, match="cannot write"):
            registry.rollback("leaf", "production")
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_golden_logits_are_checked_one_image_at_a_time_within_the_tolerance(registry: Registry) -> None:
    manifest = registry.bundle("leaf", "1.0.0").manifest
    batches: list[tuple[int, ...]] = []

    def recorded(offset: float) -> Any:
        rows = iter(LOGITS)

        def infer(batch: np.ndarray) -> np.ndarray:
            batches.append(batch.shape)
            return next(rows)[None] + np.float32(offset)

        return infer

    assert check_golden(recorded(5e-4), manifest, PIXELS, LOGITS) == pytest.approx(5e-4, rel=1e-2)
    assert batches == [(1, 3, 8, 8), (1, 3, 8, 8)]
    for offset in (2e-3, float("nan"), float("inf")):
        with pytest.raises(WorkbenchError, match="the logits differ by up to"):
            check_golden(recorded(offset), manifest, PIXELS, LOGITS)


def test_a_real_session_reproduces_its_golden_logits_and_another_class_is_caught(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    bundle = publish(registry, "1.0.0")
    with BACKENDS["null"].session(bundle.artifact, bundle.manifest.runtime) as session:
        batch = (PIXELS.astype(np.float32) / 255 - 0.5) / 0.5
        expected = np.concatenate([session.infer(one[None].transpose(0, 3, 1, 2)) for one in batch])
        assert check_golden(session.infer, bundle.manifest, PIXELS, expected) < 1e-5
        close = bundle.manifest.model_copy(update={"golden": Golden(file="golden.npz", images=2, atol=100.0)})
        with pytest.raises(WorkbenchError, match="the top-1 class differs on golden image 0"):
            check_golden(session.infer, close, PIXELS, -expected)
