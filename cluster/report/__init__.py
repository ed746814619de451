"""`azero report`: one self-contained HTML file from run directories.

    data.py -> tables.py, figures.py -> page.py (sections.yaml, report.html.j2, browser.js)

data reads run directories, tables and figures say how to show things, page says what stands where and puts it together.
Nothing here knows a domain: problems, answers, structures and cells are strings, a payload is JSON.
"""
