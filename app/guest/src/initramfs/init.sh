#!/bin/busybox sh
# The first process of an Ambos guest. It makes the guest habitable and then does one of two
# things: run the command that the kernel command line carries (ambos.exec), or give a shell on the
# console. Either way the guest powers off afterwards.

export PATH=/bin HOME=/root TERM=linux ENV=/etc/shrc

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,mode=0620 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev tmpfs /run
mount -t tmpfs -o nosuid,nodev tmpfs /tmp
hostname ambos
# Up to here the kernel did not let anybody wait for all processors to have passed by; what is made ready below
# need not wait either.
expedite() {
    [ -e /sys/kernel/rcu_expedited ] && echo "$1" > /sys/kernel/rcu_expedited
}
expedite 1
# So the kernel can switch the guest off when it is asked to from outside.
echo /bin/poweroff -f > /proc/sys/kernel/poweroff_cmd

# Tells the monitor something, in a form that a terminal would ignore.
message() {
    [ -n "$nonce" ] && printf '\033]ambos;%s;%s\007' "$nonce" "$1"
}

command= nonce= rows= columns= console= tty=/dev/console
set -f
for word in $(cat /proc/cmdline); do
    case $word in
        ambos.exec=*) command=${word#*=} ;;
        ambos.nonce=*) nonce=${word#*=} ;;
        ambos.rows=*) rows=${word#*=} ;;
        ambos.columns=*) columns=${word#*=} ;;
        ambos.console=*) console=${word#*=} ;;
        ambos.term=*) TERM=${word#*=} ;;
    esac
done
set +f

# Drivers for the devices that are there. The virtio bus appears once its PCI driver is loaded,
# disks once their host adapter is.
for bus in pci virtio; do
    set -- /sys/bus/$bus/devices/*/modalias
    [ -e "$1" ] && modprobe -a -b -q $(cat "$@")
done

# Whether all devices of the Xen bus are in use.
connected() {
    for state in /sys/bus/xen/devices/*/state; do
        read -r state 2> /dev/null < "$state" && [ "$state" = Connected ] || return 1
    done
}

# Loading a front end takes until the kernel looks at its devices for a second time, a tenth of a second
# after the first. They are there long before.
set -- /sys/bus/xen/devices/*/modalias
if [ -e "$1" ]; then
    modprobe -a -b -q $(cat "$@") &
    loading=$!
    while ! connected && kill -0 $loading 2> /dev/null; do sleep 0.005; done
fi
[ -d /sys/bus/scsi ] && modprobe -a -q sd_mod sr_mod
ip link set lo up

# The paravirtual console takes a line at a time where the serial port takes a character.
if [ -n "$console" ] && ( : < "/dev/$console" ) 2> /dev/null; then
    tty=/dev/$console
    exec < "$tty" > "$tty" 2>&1
fi

# The network, if there is an adapter: by DHCP, and IPv6 by what the router says.
for adapter in /sys/class/net/*/device; do
    [ -e "$adapter" ] || continue
    adapter=${adapter%/device}
    adapter=${adapter##*/}
    ip link set "$adapter" up
    udhcpc -i "$adapter" -q -n -f -t 5 -T 1 -A 1 -O mtu -s /etc/udhcpc.sh > /run/udhcpc.log 2>&1
done

expedite 0
if [ -n "$command" ]; then
    # Only the command may write to the console now: no kernel messages but emergencies, no
    # carriage returns put in by the terminal.
    echo 1 > /proc/sys/kernel/printk
    stty -opost < "$tty"
    cd /root
    message begin
    sh -c ". $ENV; $(echo "$command" | base64 -d)" < /dev/null
    message "end=$?"
    # Changing a setting waits until all output has left the terminal.
    stty opost < "$tty"
else
    [ -n "$rows" ] && [ -n "$columns" ] && stty rows "$rows" columns "$columns" < "$tty"
    # Whoever has the terminal can press the power button as well.
    if [ -e /sys/bus/acpi/devices/LNXPWRBN:00 ]; then
        modprobe -a -q button evdev
        acpid -c /etc/acpi -l /run/acpid.log -p /run/acpid.pid
    fi
    cd /root
    message shell
    if [ "$tty" = /dev/console ]; then
        setsid cttyhack sh -l
    else
        setsid -c sh -l
    fi
fi
poweroff -f
# Where the machine cannot be switched off, the kernel has stopped it; never end the first process.
while :; do sleep 3600; done
