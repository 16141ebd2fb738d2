"""A race on purpose, which `python -m tests.trust races` must be told of: two threads write to one array."""

import threading

import numpy as np

import fastnn


def test_two_threads_that_write_to_one_array():
    a, out, start = np.ones((200, 200), np.float32), np.empty((200, 200), np.float32), threading.Barrier(2)

    def work():
        start.wait(60)
        with fastnn.threads(1):
            for _ in range(20):
                fastnn.matmul(a, a, out)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
