"""Layer 3: training, from one CPU core to a pod of TPUs, by one loop."""
