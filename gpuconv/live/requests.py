"""A run that browsers watch and control: its state, and the requests that change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpuconv import checkpoint as checkpoints
from gpuconv.layers.saving import NOTES
from gpuconv.layers.sequential import Sequential
from gpuconv.live import request_parsing, saved_states, segment, setting_changes
from gpuconv.live.hub import Hub
from gpuconv.live.segment import DataSplits
from gpuconv.live.speed import Speed
from gpuconv.live.view import View
from gpuconv.training import RunDirectory
from gpuconv.training.trainer import Trainer
from gpuconv.types import Record

TRAINING, PAUSED, ENDED, FAILED = "training", "paused", "finished", "failed"
REQUESTS = ("greet", "pause", "step", "go", "change", "restart", "save", "load", "look", "explain")
NEXT = "another segment follows"  # why a segment ends


class LiveRun:
    """The run. Arguments as in `Session`, whose thread calls these methods."""

    def __init__(
        self,
        sets: DataSplits,
        recipe: Record,
        device: str,
        why: str,
        home: str | Path,
        name: str,
        run_dir: str | Path | None,
        prepare: Callable[[Sequential], None] | None,
        prepared: Record,
        hub: Hub | None,
    ) -> None:
        self.sets, self.device, self.why, self.home, self.name = sets, device, why, Path(home), name
        self._prepare, self._prepared = prepare, prepared
        self.segment = segment.make(recipe, sets, device, prepare=prepare if run_dir is None else None)
        self.view = View(sets, hub or Hub(), self.state)
        self.phase = TRAINING if run_dir is None else PAUSED
        self.message = ""
        self._under_way = False  # inside `fit`
        self._steps_allowed = 0  # steps to do while paused
        self._next: Callable[[], None] | None = None  # what to do between this segment and the next
        self._speed = Speed()
        if run_dir is None:
            self.run_dir, self._resume = RunDirectory.claim(self.home, name), False
        else:
            self.run_dir, self._resume = Path(run_dir), True
            self._show_stored()

    # --- what is shown -------------------------------------------------------------------------

    @property
    def trainer(self) -> Trainer:
        return self.segment.trainer

    @property
    def hub(self) -> Hub:
        return self.view.hub

    def say(self, text: str) -> None:
        """Add a line, `text`, to the page's log."""
        self.view.say(text)

    def _show_all(self) -> None:
        self.view.show_all(self.segment, ended=self.phase == ENDED)

    def _show(self) -> None:
        self.view.show(self.segment, ended=self.phase == ENDED)

    def state(self) -> Record:
        """What the page shows of the run: its phase, position, settings, data, and saved states."""
        trainer = self.trainer
        training = self.phase == TRAINING
        images_per_step = self.segment.recipe["train"]["batch_size"] * trainer.accumulate
        return {
            "phase": self.phase,
            "message": self.message,
            "step": trainer.steps,
            "epoch": trainer.epoch,
            "batch": trainer.batch,
            "batches": trainer.batches,
            "epochs": self.segment.recipe["epochs"],
            "lr": trainer.lr,
            "schedule": str(trainer.schedule),
            "per_second": self._speed.at(trainer.steps, images_per_step) if training else 0,
            "device": self.device,
            "why": self.why,
            "run": str(self.run_dir),
            "data": str(self.sets.train.name),
            "images": len(self.sets.train),
            "tests": len(self.sets.test),
            "classes": self.sets.classes,
            "settings": setting_changes.settings_of(self.segment.recipe),
            "saved": saved_states.numbers(self.run_dir),
            "shown": self.view.title,
            "kind": self.view.kind,
            "map": self.view.attribution.kind,
        }

    # --- requests ------------------------------------------------------------------------------

    def greet(self) -> None:
        """A browser connected: make all displays due now."""
        self.view.budget.make_due()
        if self.phase != TRAINING:
            self._show()

    def pause(self) -> None:
        """Pause training after the current step."""
        if self.phase == TRAINING:
            self.phase, self._steps_allowed = PAUSED, 0
            self.view.budget.make_due()

    def step(self) -> None:
        """Do one step, then pause."""
        if self.phase in (TRAINING, PAUSED):
            self.phase, self._steps_allowed = PAUSED, 1

    def go(self) -> None:
        """Continue after a pause. Raises ValueError for a run that has finished or failed."""
        if self.phase == PAUSED:
            self.phase = TRAINING
            self._speed.begin(self.trainer.steps)  # the pause does not count
        elif self.phase in (ENDED, FAILED):
            raise ValueError(f"the run has {self.phase}; give it more epochs, load a checkpoint or start anew")

    def change(self, settings: Record) -> None:
        """Change settings from the next step on.

        Args:
            settings: New values by name: "optimizer", "lr", "momentum", "weight_decay", "batch_size" or "epochs".

        Raises ValueError or TypeError for a setting that is unknown or does not fit; then nothing has changed.
        """
        images, epoch = len(self.sets.train), self.trainer.epoch
        recipe = setting_changes.change_recipe(self.segment.recipe, settings, images=images, epoch=epoch)
        if recipe == self.segment.recipe:
            return
        new = segment.make(recipe, self.sets, self.device)  # raises if something does not fit
        if not RunDirectory(self.run_dir).last.exists():  # the run failed before its first step
            self.segment = new
            return

        def do() -> None:
            run = RunDirectory(self.run_dir)
            with run.locked():
                checkpoints.save(run.last, setting_changes.carry_state(checkpoints.load(run.last), new, settings))
            self.segment = new
            self._show_stored()
            self.say(f"from step {self.trainer.steps} on: {', '.join(f'{k} {v}' for k, v in settings.items())}")
            if self.phase in (ENDED, FAILED):
                self.phase = PAUSED if self.trainer.epoch < recipe["epochs"] else ENDED
                self.message = ""

        self._end_segment(do)

    def restart(self, layers: str | None = None) -> None:
        """Start a new run.

        Args:
            layers: The net as a JSON list of layers; by default the same net.

        Raises ValueError or TypeError if the list is not a valid net; the run then continues.
        """
        prepare = self._prepare if layers is None else None
        kept = {name: value for name, value in self.segment.recipe.get("options", {}).items() if name in NOTES}
        recipe = self.segment.recipe | {"options": kept | (self._prepared if prepare else {})}
        if layers is not None:
            net = self.segment.net
            made = request_parsing.read_net(layers, net.input_shape, net.output_shape[-1], recipe["seed"])
            recipe["net"] = {key: value for key, value in made.items() if key != "precision"}
        new = segment.make(recipe, self.sets, self.device, prepare=prepare)

        def do() -> None:
            self.run_dir, self._resume, self.segment = RunDirectory.claim(self.home, self.name), False, new
            self.phase, self.message, self._steps_allowed, self._prepare = TRAINING, "", 0, prepare

        self._end_segment(do)

    def save(self) -> int:
        """Save the current state in the run's folder; returns its number there. Raises ValueError if no step has been
        trained and none is under way."""
        last = RunDirectory(self.run_dir).last
        if not self._under_way and not last.exists():
            raise ValueError("nothing has been trained yet, so there is nothing to save")
        number = max(saved_states.numbers(self.run_dir), default=0) + 1
        path = saved_states.file(self.run_dir, number)
        if self._under_way:  # `fit` holds the lock
            checkpoints.save(path, self.trainer.snapshot())
        else:
            with RunDirectory(self.run_dir).locked():
                checkpoints.save(path, checkpoints.load(last))
        self.say(f"saved as {path}")
        self.view.budget.make_due("state")
        return number

    def load(self, number: int) -> None:
        """Return to a saved state, earlier or later than the current one, and pause.

        Args:
            number: The state's number, as returned by `save`.

        Raises ValueError if no state has this number.
        """
        known = saved_states.numbers(self.run_dir)
        if type(number) is not int or number not in known:
            raise ValueError(f"no checkpoint is saved as {number!r}; those saved are {known or 'none'}")
        found = checkpoints.load(saved_states.file(self.run_dir, number))
        new = segment.make(found.state["settings"], self.sets, self.device)

        def do() -> None:
            with RunDirectory(self.run_dir).locked():
                checkpoints.save(RunDirectory(self.run_dir).last, found)
            self.segment, self.phase, self.message, self._steps_allowed = new, PAUSED, "", 0
            self._show_stored()
            self.say(f"went to checkpoint {number}, step {self.trainer.steps}")

        self._end_segment(do)

    def look(
        self,
        kind: str | None = None,
        test: int | None = None,
        image: np.ndarray | None = None,
        title: str = "image",
        map: str | None = None,
    ) -> None:
        """Choose the image that is shown in the net, and how it is shown. None leaves a choice as it is.

        Args:
            kind: What is shown of each layer: "activations", "gradients" or "filters".
            test: The index of a test image.
            image: The user's image, uint8 (H, W, C) of the net's size.
            title: The name of `image` on the page.
            map: The attribution map: "none", "saliency", "occlusion" or "grad-cam".

        Raises ValueError for an unknown choice, and for an image of another dtype or shape.
        """
        shape, given = self.segment.net.input_shape, np.asarray(image)
        if image is not None and (given.dtype != np.uint8 or given.shape != shape):
            raise ValueError(
                f"image must be uint8 of shape {shape}, received {given.dtype.name} of shape {given.shape}"
            )
        self.view.choose(kind, test, image, title, map)
        self._show()

    def explain(self, layer: str, at: list[int]) -> Record:
        """Explain one activation of the displayed image.

        Args:
            layer: The layer's path in the net.
            at: The activation's index in that layer's output.

        Returns:
            The explanation, as the page draws it (docs/explain.md).
        """
        return self.view.explain(self.segment, layer, at)

    # --- parts ---------------------------------------------------------------------------------

    def _end_segment(self, do: Callable[[], None]) -> None:
        """Call `do` between two segments: after the current step, or at once if no segment is running."""
        if self._under_way:
            self._next = do
            self.trainer.stop(NEXT, may_continue=self.trainer.epoch < self.trainer.epochs)
        else:
            do()
            self._show_all()

    def _show_stored(self) -> None:
        """Load the run's last checkpoint for display; `fit` loads it again to continue."""
        found = checkpoints.load(RunDirectory(self.run_dir).last)
        trainer = self.trainer
        trainer.net.load_state_dict(found.part("net"))
        trainer.optimizer.load_state_dict(found.part("optimizer"))
        trainer.epoch, trainer.batch = found.state["epoch"], found.state["batch"]
        trainer.records = found.state["records"]
        trainer.follow_plateau()
        if self.phase == PAUSED and trainer.epoch >= self.segment.recipe["epochs"]:
            self.phase = ENDED
