"""The layouts of data that are known, a file each; `glocal.data.open` lists them in order."""
