"""What the TPU compiler of `libtpu` asks of a process that has no TPU.

Nothing is imported here: the variables count only before JAX starts.
"""

ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  # There is no TPU to look for.
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  # Nothing here is held, so other compilers need not wait.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
