"""A stand-in for a BLAS of three threads, so that a batch has three parts on any machine."""


class Blas:
    """What threadpoolctl gives to set its threads by."""

    num_threads = 3

    def set_num_threads(self, number):
        self.num_threads = number
