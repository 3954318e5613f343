//! Which instructions are tested.

use iced_x86::{Code, CpuidFeature as F, EncodingKind, FlowControl, Mnemonic as M, OpCodeInfo};

/// Instructions that a test must not execute natively or whose result is the machine's affair:
/// system calls, segment loads, counters, random numbers, what the kernel emulates.
const EXCLUDED: &[M] = &[
    M::Syscall,
    M::Sysenter,
    M::Sysret,
    M::Sysretq,
    M::Sysexit,
    M::Sysexitq,
    M::Int,
    M::Int1,
    M::Int3,
    M::Into,
    M::Iret,
    M::Iretd,
    M::Iretq,
    M::Retf,
    M::Cpuid,
    M::Rdtsc,
    M::Rdtscp,
    M::Rdpid,
    M::Rdpmc,
    M::Rdpru,
    M::Rdrand,
    M::Rdseed,
    M::Xgetbv,
    M::Rdfsbase,
    M::Wrfsbase,
    M::Wrgsbase,
    M::Lfs,
    M::Lgs,
    M::Lss,
    M::Lar,
    M::Lsl,
    M::Verr,
    M::Verw,
    M::Sgdt,
    M::Sidt,
    M::Sldt,
    M::Str,
    M::Smsw,
    M::Monitor,
    M::Mwait,
    M::Monitorx,
    M::Mwaitx,
    M::Umonitor,
    M::Umwait,
    M::Tpause,
    M::Clzero,
    M::Rdpkru,
    M::Wrpkru,
    M::Getsec,
    M::Enclu,
    M::Encls,
    M::Enclv,
    M::Vmcall,
    M::Vmmcall,
    M::Vmgexit,
    M::Vmfunc,
    M::Xabort,
    M::Xbegin,
    M::Xend,
    M::Xtest,
    M::Wrmsr,
    M::Rdmsr,
    // The image holds instruction pointers and hardware's own idea of what is in use.
    M::Xsave,
    M::Xsave64,
    M::Xsaveopt,
    M::Xsaveopt64,
    M::Xsavec,
    M::Xsavec64,
    M::Xsaves,
    M::Xsaves64,
    M::Xrstor,
    M::Xrstor64,
    M::Xrstors,
    M::Xrstors64,
    M::Ptwrite,
];

/// Features that no virtual CPU offers, or that belong to processors without 64-bit mode.
const EXCLUDED_FEATURES: &[F] = &[
    F::VMX,
    F::SVM,
    F::SEV_ES,
    F::SEV_SNP,
    F::SKINIT,
    F::SKINIT_or_SVM,
    F::SMX,
    F::SMM,
    F::SGX1,
    F::TDX,
    F::KL,
    F::AESKLE,
    F::WIDE_KL,
    F::UINTR,
    F::HRESET,
    F::FRED,
    F::LKGS,
    F::LWP,
    F::MCOMMIT,
    F::MPX,
    F::CET_SS,
    F::CET_IBT,
    F::AMX_TILE,
    F::AMX_BF16,
    F::AMX_INT8,
    F::AMX_FP16,
    F::AMX_COMPLEX,
    F::ENQCMD,
    F::PCONFIG,
    F::INVLPGB,
    F::RMPQUERY,
    F::INVEPT,
    F::INVVPID,
    F::MSRLIST,
    F::WRMSRNS,
    F::TSE,
    F::WAITPKG,
    F::TSXLDTRK,
    F::SERIALIZE,
    F::PADLOCK_ACE,
    F::PADLOCK_PHE,
    F::PADLOCK_PMM,
    F::PADLOCK_RNG,
    F::PADLOCK_GMI,
    F::PADLOCK_UNDOC,
    F::CENTAUR_AIS,
    F::CYRIX_D3NOW,
    F::CYRIX_DDI,
    F::CYRIX_DMI,
    F::CYRIX_EMMI,
    F::CYRIX_FPU,
    F::CYRIX_SHR,
    F::CYRIX_SMINT,
    F::CYRIX_SMINT_0F7E,
    F::CYRIX_SMM,
    F::KNC,
    F::UDBG,
    F::OSS,
    F::MOV_TR,
    F::IA64,
    F::UMOV,
];

/// Whether instructions of `code` may be tested.
pub(crate) fn is_testable(code: Code) -> bool {
    let info = code.op_code();
    let features = code.cpuid_features();
    info.is_instruction()
        && info.mode64()
        && info.encoding() != EncodingKind::MVEX
        && info.decoder_option() == 0
        && !EXCLUDED.contains(&code.mnemonic())
        && !features.iter().any(|feature| EXCLUDED_FEATURES.contains(feature))
        && is_near(code, info)
        && !loads_segment(code)
        && !is_disputed(code)
}

/// No transfer of control but a near one; those have 64-bit operands, because processors disagree
/// on 16-bit ones.
fn is_near(code: Code, info: &OpCodeInfo) -> bool {
    match code.flow_control() {
        FlowControl::Next | FlowControl::Exception => true,
        FlowControl::Interrupt | FlowControl::XbeginXabortXend => false,
        _ => {
            let far = code.is_jmp_far()
                || code.is_jmp_far_indirect()
                || code.is_call_far()
                || code.is_call_far_indirect();
            let counts = code.is_jcx_short() || code.is_loop() || code.is_loopcc();
            !far && (info.operand_size() == 64 || info.operand_size() == 0 || counts)
                && !matches!(info.operand_size(), 16 | 32)
        }
    }
}

/// Whether vendors define the code differently: 0F 0D with a register is a no-operation or
/// undefined; MOVSXD to 16 bits reads two bytes or four.
fn is_disputed(code: Code) -> bool {
    matches!(
        code,
        Code::Movsxd_r16_rm16
            | Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

fn loads_segment(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
            | Code::Mov_Sreg_r64m16
            | Code::Popw_FS
            | Code::Popq_FS
            | Code::Popw_GS
            | Code::Popq_GS
    )
}

/// All testable codes.
pub(crate) fn testable() -> Vec<Code> {
    Code::values().filter(|&code| is_testable(code)).collect()
}
