use super::*;
use crate::testing::*;

fn image(bytes: Vec<u8>) -> KernelImage {
    KernelImage::parse("vmlinuz-6.1.0-test", bytes).unwrap()
}

fn stock_config(_: Option<&str>) -> Option<KernelConfig> {
    let text = "CONFIG_PCI=y\nCONFIG_ACPI=y\nCONFIG_SERIAL_8250_CONSOLE=y\nCONFIG_ATA_PIIX=m\n\
                CONFIG_BLK_DEV_SD=m\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_BLK=m\n\
                CONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_CONSOLE=m\nCONFIG_KVM_GUEST=y\n";
    Some(KernelConfig::parse(ConfigSource::Embedded, text))
}

#[test]
fn a_stock_kernel_is_judged_by_its_notes_and_configuration() {
    let file = bzimage(Compression::Lz4, &vmlinux());
    let report = examine(&image(file), |release| {
        assert_eq!(release, Some("6.1.0-test"));
        stock_config(release)
    });
    assert_eq!(report.kind, FileKind::BzImage);
    assert_eq!(report.setup_version.as_deref(), Some("2.15"));
    assert_eq!(report.compression, Some(Compression::Lz4));
    let supported: Vec<bool> = report.protocols.iter().map(|report| report.supported).collect();
    assert_eq!(supported, [true, true, false]);
    let [full, hybrid, para] = &report.techniques[..] else { panic!("three techniques") };
    assert_eq!(full.verdict, Verdict::Limited);
    assert_eq!(full.reasons, ["no network: E1000 is off"]);
    assert_eq!((hybrid.verdict, hybrid.reasons.len()), (Verdict::Yes, 0));
    assert_eq!(para.verdict, Verdict::No, "XEN_PV is off");

    let text = report.to_string();
    assert!(text.contains("\n  pvh        yes  entry at 0x1000200\n"), "{text}");
    assert!(text.contains("Technique full: runs, with limits\n  ! no network"), "{text}");
    assert!(text.contains("\n  disk        ATA_PIIX             module\n"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["techniques"][1]["drivers"][0]["state"], "module");
    assert_eq!(json["compression"], "lz4");
    assert_eq!(json["protocols"][0]["protocol"], "pvh");
}

#[test]
fn without_a_configuration_drivers_are_unknown() {
    let report = examine(&image(vmlinux()), |_| None);
    let verdicts: Vec<Verdict> = report.techniques.iter().map(|one| one.verdict).collect();
    assert_eq!(verdicts, [Verdict::Unknown; 3]);
    assert!(report.to_string().contains("configuration  not found"));
}

#[test]
fn another_operating_system_is_not_asked_for_linux_drivers() {
    let mut code = multiboot_header(3, &[]);
    code.resize(0x100, 0x90);
    let file = elf32(0x10_0020, &[TestSegment::at(0x10_0000, &code, 0x200)]);
    let report = examine(&image(file), |_| panic!("it has no configuration"));
    let verdicts: Vec<Verdict> = report.techniques.iter().map(|one| one.verdict).collect();
    assert_eq!(verdicts, [Verdict::Yes, Verdict::Unknown, Verdict::No]);
    assert!(report.protocols[2].supported);
}

#[test]
fn a_payload_that_cannot_be_unpacked_is_reported() {
    let mut file = bzimage(Compression::Lz4, &vmlinux());
    file[0xc00..0xc03].copy_from_slice(b"BZh");
    let report = examine(&image(file), |_| None);
    assert_eq!(report.compression, Some(Compression::Bzip2));
    assert!(report.unpack_error.as_ref().unwrap().contains("bzip2"));
    assert_eq!(report.release.as_deref(), Some("6.1.0-test"));
    assert!(report.to_string().contains("bzip2; the kernel is compressed"));
    assert_eq!(report.techniques[2].verdict, Verdict::No);
}
