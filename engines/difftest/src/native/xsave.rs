//! The XSAVE image (SDM vol. 1, 13.4): between [`VectorState`] and the standard format.
#![expect(unsafe_code, reason = "XGETBV and CPUID are intrinsics")]

use super::NativeError;
use ambos_vcpu::VectorState;
use ambos_x86::xstate;
use std::arch::x86_64::{__cpuid_count, _xgetbv};

/// Bytes of the largest image that is loaded.
pub(super) const AREA_SIZE: usize = 0x3000;
/// Where XSTATE_BV is.
const HEADER: usize = 512;

/// Where the host puts each state component.
#[derive(Debug, Clone, Copy)]
pub(super) struct AreaLayout {
    components: u64,
    avx: usize,
    opmask: usize,
    zmm_hi256: usize,
    hi16_zmm: usize,
}

impl AreaLayout {
    pub(super) fn of_host() -> Result<Self, NativeError> {
        if !std::is_x86_feature_detected!("xsave") {
            return Err(NativeError::Missing("XSAVE"));
        }
        // SAFETY: XSAVE is there and, as the detection says, enabled.
        let enabled = unsafe { read_xcr0() };
        let used = xstate::X87 | xstate::SSE | xstate::AVX | xstate::AVX512;
        let components = enabled & used;
        let offset = |component: u32| {
            if components >> component & 1 == 0 {
                return Ok(0);
            }
            let leaf = __cpuid_count(0xd, component);
            let (start, size) = (leaf.ebx as usize, leaf.eax as usize);
            if start + size > AREA_SIZE {
                return Err(NativeError::Missing("small enough XSAVE area"));
            }
            Ok(start)
        };
        Ok(Self {
            components,
            avx: offset(2)?,
            opmask: offset(5)?,
            zmm_hi256: offset(6)?,
            hi16_zmm: offset(7)?,
        })
    }

    pub(super) fn components(&self) -> u64 {
        self.components
    }

    fn has(&self, component: u64) -> bool {
        self.components & component == component
    }

    /// Writes the image of `state`.
    pub(super) fn write(&self, state: &VectorState, area: &mut [u8; AREA_SIZE]) {
        area[..24].copy_from_slice(&state.x87[..24]);
        area[24..28].copy_from_slice(&state.mxcsr.to_le_bytes());
        area[28..32].fill(0);
        area[32..160].copy_from_slice(&state.x87[32..160]);
        area[HEADER..HEADER + 64].fill(0);
        area[HEADER..HEADER + 8].copy_from_slice(&self.components.to_le_bytes());
        for number in 0..16 {
            let register = &state.zmm[number];
            area[160 + number * 16..][..16].copy_from_slice(&register[..16]);
            if self.has(xstate::AVX) {
                area[self.avx + number * 16..][..16].copy_from_slice(&register[16..32]);
            }
            if self.has(xstate::AVX512) {
                area[self.zmm_hi256 + number * 32..][..32].copy_from_slice(&register[32..]);
                area[self.hi16_zmm + number * 64..][..64].copy_from_slice(&state.zmm[number + 16]);
            }
        }
        if self.has(xstate::AVX512) {
            for (number, mask) in state.k.iter().enumerate() {
                area[self.opmask + number * 8..][..8].copy_from_slice(&mask.to_le_bytes());
            }
        }
    }

    /// Reads an image that the host has saved.
    pub(super) fn read(&self, area: &[u8; AREA_SIZE], state: &mut VectorState) {
        let mut saved = [0; 8];
        saved.copy_from_slice(&area[HEADER..HEADER + 8]);
        let saved = u64::from_le_bytes(saved);
        // Components in their initial state are not written.
        let in_use = |component: u64| self.components & saved & component == component;
        if in_use(xstate::X87) {
            state.x87[..24].copy_from_slice(&area[..24]);
            state.x87[32..160].copy_from_slice(&area[32..160]);
        } else {
            state.x87 = VectorState::default().x87;
        }
        // MXCSR is saved with SSE or AVX, whatever XSTATE_BV says.
        state.mxcsr = u32::from_le_bytes([area[24], area[25], area[26], area[27]]);
        let part = |component: u64, start: usize, target: &mut [u8]| {
            if in_use(component) {
                target.copy_from_slice(&area[start..start + target.len()]);
            } else {
                target.fill(0);
            }
        };
        for number in 0..16 {
            part(xstate::SSE, 160 + number * 16, &mut state.zmm[number][..16]);
            part(xstate::AVX, self.avx + number * 16, &mut state.zmm[number][16..32]);
            part(xstate::ZMM_HI256, self.zmm_hi256 + number * 32, &mut state.zmm[number][32..]);
            part(xstate::HI16_ZMM, self.hi16_zmm + number * 64, &mut state.zmm[number + 16]);
        }
        for (number, mask) in state.k.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            part(xstate::OPMASK, self.opmask + number * 8, &mut bytes);
            *mask = u64::from_le_bytes(bytes);
        }
    }
}

/// XCR0.
///
/// # Safety
///
/// XSAVE must be enabled.
#[target_feature(enable = "xsave")]
unsafe fn read_xcr0() -> u64 {
    // SAFETY: the caller vouches for it.
    unsafe { _xgetbv(0) }
}
