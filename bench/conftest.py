"""Its being here lets tests in the folders below import the scripts of this one."""
