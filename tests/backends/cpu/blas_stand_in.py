"""A stand-in for a BLAS with three threads, so that a batch has three parts on any machine."""


class Blas:
    """The controller object of threadpoolctl that sets the thread count."""

    num_threads = 3

    def set_num_threads(self, number):
        self.num_threads = number
