"""Memory in which the processes of a loader hand optimizer steps over to the training process, without a copy.

torch sends each tensor as a file of its own: a socket and a mapping for the main thread, new pages to touch, and all of
them have to fit into /dev/shm, of which a container has 64 MB. Here a slot of memory is mapped once, before the loader
forks, and belongs to one step until that step is forgotten.
"""

import mmap
import weakref
from typing import NamedTuple

import numpy as np
import torch


class Slot(NamedTuple):
    """Where the numbers of a step stand."""

    handover: int  # key
    number: int
    size: int = 0  # int64


class Handover:
    """`slots` of `size` int64 each, shared with the processes that are forked later."""

    _open: weakref.WeakValueDictionary[int, "Handover"] = weakref.WeakValueDictionary()  # by key, in this process

    def __init__(self, slots: int, size: int):
        self._slots = np.frombuffer(mmap.mmap(-1, slots * size * 8), dtype=np.int64).reshape(slots, size)
        self._free = list(range(slots))
        self.key = id(self)
        self._open[self.key] = self

    @classmethod
    def of(cls, slot: Slot) -> "Handover":
        """The one that a slot is of."""
        return cls._open[slot.handover]

    def reserve(self) -> Slot | None:
        """A slot for a step that is yet to be built; None where all are taken."""
        return Slot(self.key, self._free.pop()) if self._free else None

    def put(self, slot: Slot, numbers: torch.Tensor) -> Slot:
        """Write the numbers of a step, int64, into its slot; in a worker process. Size 0 where they do not fit."""
        if slot.handover != self.key:
            raise ValueError("this slot is of another memory than the one that the process has")
        size = len(numbers)
        if size > self._slots.shape[1]:
            return slot
        self._slots[slot.number, :size] = numbers.numpy()
        return slot._replace(size=size)

    def take(self, slot: Slot) -> torch.Tensor:
        """The numbers in a slot, which is free again when nothing holds them or a view of them any more."""
        numbers = self._slots[slot.number, : slot.size]
        weakref.finalize(numbers, self._free.append, slot.number).atexit = False
        return torch.from_numpy(numbers)
