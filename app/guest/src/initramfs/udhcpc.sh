#!/bin/busybox sh
# Configures an adapter as the DHCP client has been told to.

case $1 in
    deconfig)
        ip -4 addr flush dev "$interface"
        ;;
    bound | renew)
        [ -n "$mtu" ] && [ "$mtu" != "$(cat "/sys/class/net/$interface/mtu")" ] &&
            ip link set "$interface" mtu "$mtu"
        ip addr replace "$ip/${mask:-24}" dev "$interface"
        for gateway in $router; do
            ip route replace default via "$gateway" dev "$interface"
        done
        for server in $dns; do
            echo "nameserver $server"
        done > /etc/resolv.conf
        ;;
esac
