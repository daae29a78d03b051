#!/usr/bin/env python3
"""Writes what each image's program is made of, as CycloneDX 1.5 JSON: target/sbom/PROGRAM.cdx.json.

    scripts/sbom.py [FOLDER]

The crates are those that Cargo.lock pins and cargo would link or run for Linux on this architecture; crates of tests are not among them.
"""
import json
import pathlib
import platform
import subprocess
import sys

PROGRAMS = ["holdfast", "holdfast-gateway", "holdfast-order", "holdfast-payment", "holdfast-delivery", "holdfast-console"]


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, kind="library"):
    fields = {"type": kind, "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package)}
    if package["license"]:
        fields["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    return fields


def needed(nodes, root):
    """What a package needs to be built, with all that these need."""
    found, open_ = {}, [root]
    while open_:
        node = nodes[open_.pop()]
        used = [dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
        found[node["id"]] = used
        open_ += [package for package in used if package not in found]
    return found


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/sbom")
    target = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    folder.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        root = next(id for id in metadata["workspace_members"] if packages[id]["name"] == program)
        found = needed(nodes, root)
        others = sorted((packages[id] for id in found if id != root), key=purl)
        document = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": component(packages[root], "application")},
            "components": [component(package) for package in others],
            "dependencies": sorted(
                ({"ref": purl(packages[id]), "dependsOn": sorted({purl(packages[used]) for used in uses})} for id, uses in found.items()),
                key=lambda line: line["ref"],
            ),
        }
        (folder / f"{program}.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
        print(f"{program}: {len(others)} crates")


main()
