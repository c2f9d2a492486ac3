#!/bin/bash
# Install the real peers that the acceptance tests talk to, where this user may; `--have` only says if those are
# here without which none of these tests can be run: the others leave out, aloud, the tests that need them.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

peers=(Orthanc:orthanc dcmsend:dcmtk dciodvfy:dicom3tools)
[ "${1:-}" = --have ] || peers+=(chromium:chromium rsyslogd:rsyslog-openssl)
missing=()
for pair in "${peers[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ "${1:-}" != --have ] || exit 1

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "for the acceptance tests install, as root: apt-get install ${missing[*]}"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing Debian's ${missing[*]}"
{ apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null; } </dev/null ||
    echo "Debian's ${missing[*]} could not be installed"
