"""The clock of a device."""

import time

import jax.numpy as jnp
import pytest

from maskclip_jax.batches import DeviceClock


def test_the_clock_counts_what_is_computed(monkeypatch):
  clock, moments = DeviceClock(), iter([0.0, 4.0, 5.0, 7.0, 10.0])
  monkeypatch.setattr(time, 'perf_counter', lambda: next(moments))
  # From 0 to 4, and from 5 to 7 of 10 seconds.
  for _ in range(2):
    clock.watch(jnp.zeros(1))
    clock._pool.submit(lambda: None).result()
  assert clock.waited() == pytest.approx(0.4)
  assert DeviceClock().waited() is None
