#!/bin/busybox sh
# Says what the guest finds and uses: one `fact ABOUT VALUE` a line.
clocks=/sys/devices/system/clocksource/clocksource0
echo "fact clocksource $(cat $clocks/current_clocksource)"
for link in /sys/bus/*/devices/*/driver; do
    [ -e "$link" ] || continue
    bus=${link#/sys/bus/}
    driver=$(readlink "$link")
    echo "fact driver ${bus%%/*} ${driver##*/}"
done | sort -u
[ -e /sys/hypervisor/type ] && echo "fact hypervisor $(cat /sys/hypervisor/type)"
sed -n 's/^model name[^:]*: /fact processor /p' /proc/cpuinfo | head -n 1
sed -n 's/^flags[^:]*: /fact flags /p' /proc/cpuinfo | head -n 1
