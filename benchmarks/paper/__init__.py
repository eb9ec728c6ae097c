"""The MIDL 2020 paper's experiments on open data: trainings, runs, tables, figures, a page."""
