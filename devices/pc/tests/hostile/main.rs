//! Guests that do whatever random bytes say to a device: nothing panics and nothing hangs. The fuzz targets do the
//! same with better chosen bytes.

mod guest;

use guest::Device;

fn attack(device: Device) {
    let mut random = ambos_random::Random::new(1);
    let mut byte = || (random.next() >> 56) as u8;
    for round in 0..150 {
        let data: Vec<u8> = (0..500 + round * 10).map(|_| byte()).collect();
        guest::run(device, &data);
    }
}

#[test]
fn the_disk_controller_survives() {
    attack(Device::Ide);
}

#[test]
fn the_network_adapter_survives() {
    attack(Device::E1000);
}

#[test]
fn the_display_adapter_survives() {
    attack(Device::Vga);
}

#[test]
fn keyboard_and_mouse_survive() {
    attack(Device::I8042);
}
