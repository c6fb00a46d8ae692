"""Commerce Cloud jobs by OCAPI: `salesforce.job` runs one and waits, `salesforce.executions` lists, reads, deletes."""
