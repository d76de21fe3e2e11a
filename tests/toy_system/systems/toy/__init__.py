"""The toy system."""

from maskclip_jax.systems.toy.checkpoint import FORMAT, sized
from maskclip_jax.systems.toy.model import Toy, ToyConfig
from maskclip_jax.systems.toy.presets import CARDS, PRESETS

from maskclip_jax.systems.system import System

SYSTEM = System(
  name='toy',
  title='Toy',
  model=Toy,
  config=ToyConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  parts={'clip': 'clip'},
)
