"""Informatica Cloud: `informatica.job`, `informatica.job_stop`, `informatica.code_task` and `…_status`."""
