"""Programs of JAX as graphs of ONNX, one operator after another.

A program is traced, calls within it are inlined, and every primitive becomes operators
of ONNX; loops and choices become those of ONNX. Only primitives that this package's
networks use are known, for arrays of fixed shapes.
"""

from maskclip_jax.deploy.onnx_graph.model import Weights, to_model

__all__ = ['Weights', 'to_model']
