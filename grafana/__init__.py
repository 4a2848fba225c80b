"""Dashboards, recording rules and alerts as code. One dashboard is one file.

``python -m grafana.build`` writes everything.

Names of metrics come from :mod:`tpw.exposition.catalogue` alone: a metric or a label that is not there fails the build.
"""
