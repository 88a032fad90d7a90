#!/bin/sh
# How `p2p map` does over a long and lossy way (150 ms there and back, 1 % of the segments lost), as a table.
exec "$(dirname "$0")/run.sh" wan
