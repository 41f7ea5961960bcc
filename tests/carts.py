"""The head of a small robot's YAML, for tests that need any robot: a cart on a rail."""

CART = """
rate_hz: 50
model_dt: 0.04
state:
  - {name: x, joint: slider, unit: m}
  - {name: v, joint: slider, field: velocity, unit: m/s, rate_of: x}
command:
  - {name: u, unit: N, limits: [-1, 1]}
cost: {kind: quadratic, options: {weight: {x: 1.0}}}
"""
