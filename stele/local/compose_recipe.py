"""A script that restarts the cluster of docker-compose.yml as ``stele cluster restart --rolling`` restarts a local one.

The names and ports are those of docker-compose.yml; each stands in one line of the script, to be changed for another file.
"""

from __future__ import annotations

COMPOSE = """\
#!/bin/sh
# Restarts the cluster of docker-compose.yml, one container after the other, while its clients go on.  Each is made anew, so a
# new image is taken.  To be run beside docker-compose.yml; `stele` is called on this machine.
set -eu
export STELE_SERVER="${STELE_SERVER:-127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103}"
nameservers="ns1 ns2 ns3" datanodes="dn1 dn2 dn3" brokers="br1 br2"
zookeepers="${ZOOKEEPERS:-}"  # "zk1 zk2 zk3" where there are three that are to be restarted, too
compose="${COMPOSE:-docker compose}"
wait_s="${WAIT_S:-300}"

drained=""
healed() {  # whatever ends this: nothing stays stopped or drained by it
  $compose up -d --no-recreate
  [ -z "$drained" ] || stele broker undrain "$drained"
}
trap healed EXIT
trap 'exit 130' INT TERM HUP

restart() {
  stele safe-to-stop "$1" --wait "$wait_s"
  $compose up -d --no-deps --force-recreate "$1"
  stele safe-to-stop "$1" --wait "$wait_s"
}

all_serve() {
  for name in $zookeepers; do
    waited=0
    until $compose exec -T "$name" zookeeper-healthcheck; do
      waited=$((waited + 1))
      [ "$waited" -le "$wait_s" ] || { echo "$name does not serve" >&2; exit 1; }
      sleep 1
    done
  done
}

for zookeeper in $zookeepers; do  # one joins the others, and has what they have, before the next one goes
  all_serve
  $compose up -d --no-deps --force-recreate "$zookeeper"
  all_serve
done

leader=$(stele nameserver ls | awk '$2 == "leader" { print $1 }')
for name in $nameservers; do
  [ "$name" = "$leader" ] || restart "$name"
done
restart "$leader"

for name in $datanodes; do  # each hands its leaders over before it ends
  restart "$name"
done

for name in $brokers; do
  stele safe-to-stop "$name" --wait "$wait_s"
  drained="$name"
  stele broker drain "$name" --wait
  $compose up -d --no-deps --force-recreate "$name"
  stele safe-to-stop "$name" --wait "$wait_s"
  stele broker undrain "$name"
  drained=""
done
"""
