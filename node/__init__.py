"""The imperative shell: it receives, groups, has read, reports and delivers."""
