#!/usr/bin/env bash
# Says which of the components in docs/components.md are behind. Fails only if that table and the files that it names disagree; what depends
# on the date or on the network are warnings, so that no build fails because the world has moved on.
#
# For tests: COMPONENTS_ROOT is the tree, COMPONENTS_TODAY the date, COMPONENTS_REPOSITORY the Maven repository to ask instead of that of
# deploy/native/pom.xml.
set -euo pipefail
cd "${COMPONENTS_ROOT:-$(dirname "$0")/..}"

table=docs/components.md
today=${COMPONENTS_TODAY:-$(date -u +%F)}
# The rhythm of PostgreSQL's and Kafka's releases is three to four months; security fixes do not wait for it.
age_days_max=60
# How long before its end support is reported.
end_days_min=60

# `<url>` of the first repository in the pom.
repository=${COMPONENTS_REPOSITORY:-$(sed -n 's|.*<url>\(.*\)</url>.*|\1|p' deploy/native/pom.xml | head -n 1)}
network=yes
warnings=0
wrong=0
pinned=0

warn() {
    echo "WARNING: $*"
    warnings=$((warnings + 1))
}

days_between() { # earlier, later
    echo $((($(date -u -d "$2" +%s) - $(date -u -d "$1" +%s)) / 86400))
}

# The newest release of a line: `newest org.apache.kafka:kafka_2.13 4.3`. Nothing if the network is away.
newest() {
    local path=${1%%:*} metadata
    path=${path//.//}/${1##*:}/maven-metadata.xml
    metadata=$(curl --silent --show-error --fail --location --max-time 10 "$repository/$path" 2>&1) || {
        echo "not asked for newer versions of $1: ${metadata##*$'\n'}" >&2
        return 1
    }
    sed -n 's|.*<version>\([0-9.]*\)</version>.*|\1|p' <<<"$metadata" | awk -v line="$2." 'index($0, line) == 1' | sort -V | tail -n 1
}

checked=$(sed -n 's/^Last checked: \([0-9-]*\)$/\1/p' "$table")
if [ -z "$checked" ]; then
    echo "$table has no line \`Last checked: DATE\`" >&2
    exit 1
fi
age=$(days_between "$checked" "$today")
if [ "$age" -gt "$age_days_max" ]; then
    warn "the components were last checked $age days ago, on $checked: look for newer ones, and write the date into $table"
fi

while IFS='|' read -r _ component version line _ files _ ends asked _; do
    read -r component <<<"$component"
    read -r version <<<"$version"
    read -r line <<<"$line"
    [[ $version =~ ^[0-9] ]] || continue
    pinned=$((pinned + 1))
    # `a`, `b`
    for file in ${files//[\`,]/ }; do
        # The version, and not the beginning or the end of another one.
        if ! grep --quiet --extended-regexp "(^|[^0-9.])${version//./\\.}([^0-9.]|\$)" "$file"; then
            echo "$table says $component $version, and $file does not" >&2
            wrong=$((wrong + 1))
        fi
    done
    if [[ $ends =~ [0-9]{4}-[0-9]{2}-[0-9]{2} ]]; then
        end=${BASH_REMATCH[0]}
        left=$(days_between "$today" "$end")
        if [ "$left" -lt 0 ]; then
            warn "$component $line got its last fixes on $end"
        elif [ "$left" -lt "$end_days_min" ]; then
            warn "$component $line gets fixes until $end only"
        fi
    fi
    # `group:artifact`
    artifact=${asked//[\` ]/}
    [[ $artifact == *:* && $network == yes ]] || continue
    # One that is away is away for all of them.
    there=$(newest "$artifact" "$line") || network=no
    if [ -n "$there" ] && [ "$(printf '%s\n' "$version" "$there" | sort -V | tail -n 1)" != "$version" ]; then
        warn "$component $version is behind: $there is there"
    fi
done <"$table"

if [ "$pinned" -eq 0 ]; then
    echo "$table names no component" >&2
    exit 1
fi
asked=$([ "$network" = yes ] && echo "" || echo "; NOT asked for newer versions")
echo "$pinned components, last checked $checked: $warnings warnings$asked"
[ "$wrong" -eq 0 ]
