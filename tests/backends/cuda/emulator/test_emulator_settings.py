"""The emulator's settings can be set in the program and by environment variables."""

import sys

import pytest

from gpuconv.backends import DeviceError, resolve
from gpuconv.backends.cuda import emulator


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SEED", "x", "GPUCONV_EMULATOR_SEED is 'x': expected a whole number"),
        ("SEED", "\uff17", "GPUCONV_EMULATOR_SEED is '\uff17': expected a whole number"),
        ("SEED", str(2**64), r"seed must be below 2\*\*64"),
        ("SANITIZE", "all", "GPUCONV_EMULATOR_SANITIZE is 'all': unknown sanitizer 'all'"),
        ("WORKERS", "0", "GPUCONV_EMULATOR_WORKERS is '0': workers must be at least 1"),
        ("WORKERS", "40000", "GPUCONV_EMULATOR_WORKERS is '40000': workers must be at most 1024, received 40000"),
    ],
)
def test_invalid_environment_variables_are_refused(variable, value, message, monkeypatch):
    monkeypatch.setattr(sys.modules[emulator.settings.__module__], "_current", None)
    monkeypatch.setenv(f"GPUCONV_EMULATOR_{variable}", value)
    with pytest.raises(DeviceError, match=message):
        resolve("emulated")


def test_environment_variables_set_the_emulator(monkeypatch):
    monkeypatch.setattr(sys.modules[emulator.settings.__module__], "_current", None)
    for name, value in (("SEED", "7"), ("WORKERS", "3"), ("SANITIZE", "checked")):
        monkeypatch.setenv(f"GPUCONV_EMULATOR_{name}", value)
    assert emulator.settings() == emulator.Settings(7, "checked", 3)


def test_configure_changes_settings_within_a_block_and_refuses_wrong_ones():
    assert emulator.settings().workers >= 1
    before = emulator.settings()
    with emulator.configure(seed=3, sanitize="checked") as chosen:
        assert emulator.settings() is chosen
        assert (chosen.seed, chosen.sanitize, chosen.workers) == (3, "checked", before.workers)
    assert emulator.settings() == before
    with pytest.raises(ValueError, match=r"unknown sanitizer 'all' \(known: none, checked, address\)"):
        emulator.configure(sanitize="all")
    with pytest.raises(ValueError, match=r"unknown sanitizer 'adress'; did you mean 'address'\?"):
        emulator.configure(sanitize="adress")
    with pytest.raises(TypeError, match="the sanitizer is chosen by name, received int: 3"):
        emulator.configure(sanitize=3)
    with emulator.configure(sanitize="Checked") as chosen:
        assert chosen.sanitize == "checked"
    with pytest.raises(ValueError, match="seed must be"):
        emulator.configure(seed=-1)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        emulator.configure(workers=0)
    for name, wrong in (("seed", 1.5), ("seed", "3"), ("seed", True), ("workers", 2.0), ("workers", "2")):
        with pytest.raises(TypeError, match=f"{name} must be an integer, received {wrong!r}"):
            emulator.configure(**{name: wrong})
    assert emulator.settings() == before
