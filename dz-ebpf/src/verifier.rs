//! Code that only the verifier needs.

use core::arch::asm;
use core::mem::transmute_copy;

/// Makes the verifier forget what it knows of a value that stays as it is.
///
/// A value set to one constant here and another one there, and looked at later, has the verifier
/// walk everything from here on once for each constant, and for each combination with the next such
/// value. `unknown` is a number of which it knows nothing: combined with it twice, the value is
/// itself again, and unknown. For numbers and C-like enums.
#[inline(always)]
pub fn forget<T: Copy>(value: T, unknown: u64) -> T {
    const { assert!(size_of::<T>() <= size_of::<u64>()) };
    let mut bits = 0_u64;
    // SAFETY: as many bytes as the value has; numbers and C-like enums have no padding among them.
    unsafe {
        core::ptr::copy_nonoverlapping(
            (&raw const value).cast::<u8>(),
            (&raw mut bits).cast::<u8>(),
            size_of::<T>(),
        );
    }
    // SAFETY: one register is changed, and changed back.
    unsafe { asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) bits, in(reg) unknown) }
    // SAFETY: the bits of a value of this type.
    unsafe { transmute_copy(&bits) }
}
