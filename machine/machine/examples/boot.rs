//! dev
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let kernel = ambos_boot::KernelImage::open(&a[1]).unwrap();
    let mut boot = ambos_boot::BootConfig::new(kernel);
    boot.initrd = a.get(2).filter(|p| !p.is_empty()).map(|p| std::fs::read(p).unwrap());
    boot.command_line = a.get(3).cloned().unwrap_or_default();
    boot.cpus = std::env::var("CPUS").ok().map_or(1, |c| c.parse().unwrap());
    if std::env::var("L64").is_ok() { boot.protocol = ambos_boot::Protocol::Linux64; }
    let t = std::time::Instant::now();
    let mut m = ambos_machine::Machine::new(ambos_machine::Config { memory: 512 << 20, boot, engine: Default::default(), debug_exit: false, console: Box::new(std::io::stdout()) }).unwrap();
    let h = m.handle();
    std::thread::spawn(move || { std::thread::sleep(std::time::Duration::from_secs(std::env::var("T").ok().map_or(20, |c| c.parse().unwrap()))); h.stop(); });
    let o = m.run(|| ambos_machine::AfterReset::End).unwrap();
    eprintln!("{o:?} {:?}\n{}", t.elapsed(), m.statistics());
}
