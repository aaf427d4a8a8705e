"""Training: optimizers, schedules, the loop, its callbacks, checkpoints and evaluation."""

from gpuconv.checkpoint import Checkpoint, CheckpointError
from gpuconv.training.callback_base import Callback
from gpuconv.training.callbacks import EarlyStopping
from gpuconv.training.clip import Clip
from gpuconv.training.data_checks import DataError
from gpuconv.training.evaluate import Evaluation, evaluate
from gpuconv.training.loss_scale import LossScale
from gpuconv.training.lr_find import RangeTest, lr_find
from gpuconv.training.optimizers import SGD, Adagrad, Adam, AdamW, Groups, Lion, Muon, Optimizer, RMSprop
from gpuconv.training.plateau import Plateau
from gpuconv.training.run_state import DivergedError, SettingsError
from gpuconv.training.rundir import RunDirectory
from gpuconv.training.schedules import Schedule
from gpuconv.training.shadow import ShadowError, ShadowWarning
from gpuconv.training.step_graphs import UncapturedWarning
from gpuconv.training.tensor_digests import Digests
from gpuconv.training.tensorboard import TensorBoard
from gpuconv.training.trained_net import load, load_net, load_weights
from gpuconv.training.trainer import Trainer

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Clip",
    "DataError",
    "Digests",
    "DivergedError",
    "EarlyStopping",
    "Evaluation",
    "Groups",
    "Lion",
    "LossScale",
    "Muon",
    "Optimizer",
    "Plateau",
    "RMSprop",
    "RangeTest",
    "RunDirectory",
    "Schedule",
    "SettingsError",
    "ShadowError",
    "ShadowWarning",
    "TensorBoard",
    "Trainer",
    "UncapturedWarning",
    "evaluate",
    "load",
    "load_net",
    "load_weights",
    "lr_find",
]
