#!/usr/bin/env python3
"""Compares the findings of checkov with those that are accepted: findings.py FINDINGS.json ACCEPTED.txt"""

import fnmatch
import json
import pathlib
import sys

findings = json.loads(pathlib.Path(sys.argv[1]).read_text())
findings = findings if isinstance(findings, list) else [findings]
accepted = []
for line in pathlib.Path(sys.argv[2]).read_text().splitlines():
    if line and not line.startswith("#"):
        check, resource, reason = line.split(maxsplit=2)
        accepted.append((check, resource, reason))

passed, problems, used = 0, [], set()
for finding in findings:
    if finding["summary"]["parsing_errors"]:
        problems.append("checkov could not read everything")
    passed += finding["summary"]["passed"]
    for failed in finding["results"]["failed_checks"]:
        check, resource = failed["check_id"], failed["resource"]
        match = next((row for row in accepted if row[0] == check and fnmatch.fnmatch(resource, row[1])), None)
        if match:
            used.add(match)
        else:
            problems.append(f"{check} {failed['check_name']}: {resource} in {failed['file_path']}")
problems += [f"{check} {resource} is accepted and no longer found" for check, resource, reason in accepted if (check, resource, reason) not in used]
if passed < 100:
    problems.append(f"only {passed} checks passed: did checkov see the manifests?")
print(f"{'FAILED' if problems else 'ok':7}{passed} checks of checkov passed, {len(used)} kinds of findings are accepted with a reason")
for problem in problems:
    print(f"       {problem}")
sys.exit(1 if problems else 0)
