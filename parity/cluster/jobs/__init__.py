"""Parity as a Ray job: what is sent and what never is, the cluster's Jobs API, following a job, fetching its run."""
