"""The several processes of one run: rendezvous, process group, the leader that watches its peers."""
