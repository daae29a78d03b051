#!/usr/bin/env bash
# Writes artifacts.sha256: fetches what pom.xml names, for every platform, and takes down what came. Maven checks each file against
# the registry's own checksum meanwhile. Read the difference before you commit it.
set -euo pipefail
cd "$(dirname "$0")"
# The order of the lines.
export LC_ALL=C

jars=$(mktemp -d)
trap 'rm -rf "$jars"' EXIT
for platform in linux-amd64 linux-arm64v8; do
    mvn -B -q -C -f pom.xml dependency:copy-dependencies -DincludeScope=runtime "-Dpostgres.platform=$platform" "-DoutputDirectory=$jars"
done
{
    echo '# What the native stack fetches, by SHA-256: deploy/native/checksums.sh writes this file, deploy/native/src/artifacts.rs refuses anything else.'
    (cd "$jars" && sha256sum -- *.jar)
} >artifacts.sha256.draft
mv artifacts.sha256.draft artifacts.sha256
