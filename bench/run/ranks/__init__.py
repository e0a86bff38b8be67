"""The several processes of one run: process group, rendezvous, and the first process that starts and watches its peers.

Why not an existing launcher (each tried with two processes, of which one failed or was killed):

* torch 2.13, `torch.distributed.elastic.multiprocessing.start_processes`, on which torchrun stands. When the process
  that started them was killed by SIGKILL, its children went on as orphans: it sets no parent-death signal, and it starts
  each child in a session of its own, so that killing the run's process group does not reach them. It noticed a failure
  within 0.2 s, but reported it only after the others had ended: SIGTERM, then 30 s later SIGKILL, so 30.2 s for a
  process that ignores SIGTERM. A failure is an exit code and, if wanted, an error file; a MemoryError in a plain script
  is exit code 1 without a reason. torchrun's agent would also stand between the launcher and the run's own process,
  which are one process here.
* Ray 2.60, `ray.train.torch.TorchTrainer`. It noticed a failure within 1.1 to 1.3 s, and reported the exception, or
  "the worker died". It needs Ray and four further packages (``ray[train]``: pyarrow, tensorboardX, pydantic, requests)
  also on one machine, a cluster (31 to 61 s until a failed training function of one second was reported, on two
  cores), and a storage folder of its own. Its workers are children of the raylet: they outlived the killed command by
  4 s, are no part of the run's process group, hold the devices themselves, and write to logs of Ray's. Restarts are
  those of the whole group, which the launcher does here for a run and its checkpoint.

What is used of torch: the TCPStore and the process groups. Ours on top of that: a peer ends with its parent
(PR_SET_PDEATHSIG), a peer that was killed for memory is ``oom_host``, the first cause is the run's reason, and each
peer reports its peaks of memory.
"""
