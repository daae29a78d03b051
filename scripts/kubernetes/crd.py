#!/usr/bin/env python3
"""Takes the schemas out of CustomResourceDefinitions, without what a check does not need.

  scripts/kubernetes/crd.py "PROJECT VERSION" CRD.yaml... FOLDER

Writes FOLDER/KIND.json for the version that is stored. Texts go, and so do rules in CEL, which only an API server can follow.
"""

import json
import pathlib
import sys

import yaml

DROPPED = ("description", "example", "x-kubernetes-validations")


def lean(schema):
    if isinstance(schema, list):
        return [lean(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            # Here a key is the name of a field, which may be "description".
            kept[key] = {name: lean(field) for name, field in value.items()}
        elif key not in DROPPED:
            kept[key] = lean(value)
    return kept


def main():
    source, *files, folder = sys.argv[1:]
    for file in files:
        definition = yaml.safe_load(pathlib.Path(file).read_text())["spec"]
        version = next(version for version in definition["versions"] if version["storage"])
        document = {
            "source": source,
            "apiVersion": f"{definition['group']}/{version['name']}",
            "kind": definition["names"]["kind"],
            "schema": lean(version["schema"]["openAPIV3Schema"]),
        }
        path = pathlib.Path(folder) / f"{document['kind']}.json"
        path.write_text(json.dumps(document, separators=(",", ":")) + "\n")


main()
