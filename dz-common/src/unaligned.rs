//! Reads and writes numbers in packets, at any address, as a whole.
//!
//! The compiler for the kernel programs does not know that the processors which they run on can read
//! and write such numbers as a whole, and would take them byte by byte: a packet's checksums would cost
//! more than everything else that is done with it. (From LLVM 22 on it can be told, with the feature
//! `allows-misaligned-mem-access`, but then does the same on the stack, where the verifier refuses it.)
//! The verifier knows: it allows it in packets and maps wherever the kernel was built for processors
//! that can (`CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`). On the stack these functions are of no use.

#[cfg(target_arch = "bpf")]
use core::{arch::asm, hint};

/// Reads a number in host byte order.
#[inline(always)]
pub fn u16(bytes: &[u8; 2]) -> u16 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: reads what the reference is to, and a load of so many bits leaves the others 0.
        unsafe {
            asm!("{0} = *(u16 *)({1} + 0)", out(reg) value, in(reg) bytes.as_ptr(),
                options(pure, readonly, nostack));
            // So that the compiler does not mask the value once more.
            hint::assert_unchecked(value <= u16::MAX as u64);
        }
        value as u16
    }
    #[cfg(not(target_arch = "bpf"))]
    u16::from_ne_bytes(*bytes)
}

/// Reads a number in network byte order.
#[inline(always)]
pub fn be16(bytes: &[u8; 2]) -> u16 {
    u16::from_be(u16(bytes))
}

/// Reads a number in host byte order.
#[inline(always)]
pub fn u32(bytes: &[u8; 4]) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: reads what the reference is to, and a load of so many bits leaves the others 0.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) value, in(reg) bytes.as_ptr(),
                options(pure, readonly, nostack));
            // As above.
            hint::assert_unchecked(value <= u32::MAX as u64);
        }
        value as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    u32::from_ne_bytes(*bytes)
}

/// Reads word `AT` of the 32-bit words in `bytes`, in host byte order.
#[inline(always)]
pub fn word<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(4 * AT + 4 <= N, "beyond the end") };
    let (words, _) = bytes.as_chunks();
    u32(&words[AT])
}

/// Stores a number in host byte order.
#[inline(always)]
pub fn store_u32(bytes: &mut [u8; 4], value: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: writes what the reference is to.
    unsafe {
        asm!("*(u32 *)({0} + 0) = {1}", in(reg) bytes.as_mut_ptr(), in(reg) u64::from(value),
            options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *bytes = value.to_ne_bytes();
    }
}
