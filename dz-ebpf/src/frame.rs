//! Turns the numbers of a program's context into packet pointers; no other file does.

use dz_common::ingress::Frame;

/// The directly accessible part of a packet, as the context shows it.
#[derive(Clone, Copy)]
pub struct Linear {
    data: usize,
    data_end: usize,
    len: usize,
}

impl Linear {
    /// Takes `data` and `data_end` as read from a program's context; `len`: the whole packet's length.
    #[inline(always)]
    pub const fn new(data: usize, data_end: usize, len: usize) -> Self {
        Self {
            data,
            data_end,
            len,
        }
    }

    /// Says whether the first `len` bytes, or all there are, can be read directly.
    #[inline(always)]
    pub const fn holds(&self, len: usize) -> bool {
        let wanted = if len < self.len { len } else { self.len };
        self.data + wanted <= self.data_end
    }

    /// Returns `N` bytes at `offset`, if directly accessible. Good until a helper changes the packet.
    #[inline(always)]
    pub fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        if self.data + offset + N > self.data_end {
            return None;
        }
        Some((self.data + offset) as *mut [u8; N])
    }
}

impl Frame for Linear {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: within the packet, and nothing writes while a `Linear` is read.
        self.at(offset).map(|bytes| unsafe { &*bytes })
    }

    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.len
    }
}
