"""The losses of real runs: read from events, thinned, drawn; of the run of the fixtures and of events written here."""

import io
import struct

import pytest
from PIL import Image
from test_monitoring import rows_of
from torch.utils.tensorboard import SummaryWriter

from bert_ja import loss_curve, training


def write_events(run, losses: dict[int, float], purge: int | None = None) -> None:
    """A file of events, as a run or the rest of one leaves it; steps are logged from 0."""
    with SummaryWriter(str(run), purge_step=purge, filename_suffix=f".{purge}") as writer:
        for step, loss in losses.items():
            writer.add_scalar("train_mlm_loss", loss, step - 1)


def test_the_curve_of_a_run_is_that_of_its_table(run):
    steps = training.load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
    curve, rows = loss_curve.read(run, steps), rows_of(run / "metrics.csv")
    assert list(curve) == list(loss_curve.SERIES)
    for name, points in curve.items():
        logged = [(row["step"] + 1, row[name]) for row in rows if name in row]
        assert [(at, pytest.approx(loss, rel=1e-5)) for at, loss in points] == logged
    assert curve["val_mlm_loss"][-1][0] == steps


def test_nothing_behind_the_checkpoint_is_in_it(run):
    curve = loss_curve.read(run, 20)
    assert {name: [at for at, _ in points] for name, points in curve.items()} == dict.fromkeys(loss_curve.SERIES, [20])


def test_a_run_that_was_gone_on_with_has_one_curve(tmp_path):
    """The second part begins behind step 4 and takes 5 and 6 anew."""
    write_events(tmp_path, {2: 8.0, 4: 7.0, 6: 66.0, 8: 88.0})
    write_events(tmp_path, {6: 6.0}, purge=4)
    assert loss_curve.read(tmp_path, 9) == {"train_mlm_loss": [[2, 8.0], [4, 7.0], [6, 6.0]]}


def test_steps_that_were_not_finite_are_no_points(tmp_path):
    write_events(tmp_path, {1: 8.0, 2: float("nan"), 3: float("inf"), 4: 7.0})
    assert loss_curve.read(tmp_path, 9) == {"train_mlm_loss": [[1, 8.0], [4, 7.0]]}


def test_a_folder_without_events_has_no_curve(tmp_path):
    assert loss_curve.read(tmp_path, 9) is None
    write_events(tmp_path, {8: 7.0})
    assert loss_curve.read(tmp_path, 7) is None


def test_long_series_are_thinned_to_means():
    points = [(step, float(step)) for step in range(1, 1001)]
    thin = loss_curve.thinned(points)
    assert (len(thin), thin[0], thin[-1]) == (250, [4, 2.5], [1000, 998.5])
    assert loss_curve.thinned(points[:300]) == [list(point) for point in points[:300]]
    assert loss_curve.thinned([]) == []


CURVE = {"train_mlm_loss": [[1, 9.0], [2, 8.0]], "val_mlm_loss": [[2, 8.5]], "train_nsp_loss": [[1, 0.7], [2, 0.69]]}


def chunks(picture: bytes) -> list[str]:
    """The kinds of a PNG's chunks."""
    kinds, at = [], 8
    while at < len(picture):
        length, kind = struct.unpack(">I4s", picture[at : at + 8])
        kinds.append(kind.decode())
        at += length + 12
    return kinds


def colours(picture: bytes) -> set[tuple]:
    return {colour for _, colour in Image.open(io.BytesIO(picture)).convert("RGB").getcolors(1 << 20)}


def test_the_picture_shows_both_losses_and_says_nothing_of_the_machine():
    picture = loss_curve.draw(CURVE, 7.5)
    assert Image.open(io.BytesIO(picture)).size == (900, 540)
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours(picture)  # training, validation, the entropy
    assert set(chunks(picture)) == {"IHDR", "pHYs", "IDAT", "IEND"}  # no tEXt with a program, no tIME
    without = loss_curve.draw({"train_mlm_loss": CURVE["train_mlm_loss"]})
    assert (31, 119, 180) in colours(without)
    assert {(255, 127, 14), (44, 160, 44)} & colours(without) == set()


def test_equal_curves_are_equal_bytes_whatever_the_settings_of_the_user(monkeypatch):
    import matplotlib

    before = loss_curve.draw(CURVE, 7.5)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        assert loss_curve.draw(CURVE, 7.5) == before
