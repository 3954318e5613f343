//! The registers of a vCPU without an engine.

/// The part of [`ambos_vcpu::GuestCpu`] that the fields `state: CpuState` and `ignores_interrupt_flag: bool` serve.
macro_rules! registers_in_state {
    () => {
        fn gpr(&self) -> &[u64; 16] {
            &self.state.gpr
        }
        fn gpr_mut(&mut self) -> &mut [u64; 16] {
            &mut self.state.gpr
        }
        fn rip(&self) -> u64 {
            self.state.rip
        }
        fn set_rip(&mut self, rip: u64) {
            self.state.rip = rip;
        }
        fn rflags(&self) -> u64 {
            self.state.rflags
        }
        fn set_rflags(&mut self, rflags: u64) {
            self.state.rflags = rflags;
        }
        fn ignore_interrupt_flag(&mut self, ignored: bool) {
            self.ignores_interrupt_flag = ignored;
        }
        fn is_64bit(&self) -> bool {
            true
        }
        fn segment(&self, name: ambos_vcpu::SegmentName) -> ambos_vcpu::Segment {
            let all = &self.state.segments;
            [all.es, all.cs, all.ss, all.ds, all.fs, all.gs][name as usize]
        }
        fn set_segment(&mut self, name: ambos_vcpu::SegmentName, segment: ambos_vcpu::Segment) {
            let all = &mut self.state.segments;
            *[&mut all.es, &mut all.cs, &mut all.ss, &mut all.ds, &mut all.fs, &mut all.gs]
                [name as usize] = segment;
        }
        fn set_code_and_stack(&mut self, code: ambos_vcpu::Segment, stack: ambos_vcpu::Segment) {
            (self.state.segments.cs, self.state.segments.ss) = (code, stack);
        }
        fn set_base(&mut self, name: ambos_vcpu::SegmentName, base: u64) {
            let segment = ambos_vcpu::Segment { base, ..self.segment(name) };
            self.set_segment(name, segment);
        }
        fn set_descriptor_tables(&mut self, _: (u64, u16), _: (u64, u16)) {}
        fn control(&self) -> ambos_vcpu::Control {
            self.state.control
        }
        fn set_control(&mut self, control: ambos_vcpu::Control) {
            self.state.control = control;
        }
        fn debug(&self) -> ambos_vcpu::DebugRegisters {
            self.state.debug
        }
        fn set_debug(&mut self, debug: ambos_vcpu::DebugRegisters) {
            self.state.debug = debug;
        }
        fn tsc(&self) -> u64 {
            5_000_000_000
        }
    };
}
