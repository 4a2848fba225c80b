"""Which inference servers run on this host, and which GPUs each of them owns.

From a server's address to its GPUs, one module per step:

1. :mod:`tpw.discovery.sockets`: address -> listening sockets, in any network namespace, and the processes that hold them
   (:mod:`tpw.discovery.procfs` reads ``/proc``).
2. :mod:`tpw.discovery.table`: those processes -> the process tree of the server.
3. :mod:`tpw.discovery.ownership`: process ids -> GPUs, by the driver's list of processes per GPU, or by the configuration.
4. If the driver has no such list: :mod:`tpw.discovery.kubelet` (GPUs assigned to the pod), then
   :mod:`tpw.discovery.environment` (GPUs that the processes' environment allows).
5. :mod:`tpw.discovery.partition`: the part of a MIG GPU that belongs to each of its instances.

:mod:`tpw.discovery.processes` combines the first two steps. :mod:`tpw.discovery.finder` finds servers that are not
configured: processes that are named like an engine (:mod:`tpw.discovery.naming`), or have a GPU in their tree.
:mod:`tpw.discovery.scan` runs all of it once and returns one immutable :class:`tpw.discovery.scan.HostScan`.
"""
