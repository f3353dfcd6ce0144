//! What Linux 6.1, the oldest kernel that we run on, refuses in an object and later ones take: it is found
//! while the object is built, not only where that kernel is.
//!
//! - A call between `bpf_spin_lock` and `bpf_spin_unlock`, also one that the compiler made of a copy
//!   (`memmove`). Since Linux 6.9 functions of the program may be called there.
//! - A chain of calls that takes more than 512 bytes of stack, each call's rounded up to 32. Later
//!   kernels round up to 16, or give programs a stack elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
};

const WORD: u64 = 8;
const MAX_STACK: u32 = 512;
const STACK_UNIT: u32 = 32;

const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const GOTO: u8 = 0x05;
/// Two words, the second of which holds the upper half of a number.
const LOAD_64: u8 = 0x18;
const MOVE_64: u8 = 0xbf;
const ADD_64: u8 = 0x07;
/// The source register of a call that says: of a function of the program.
const OF_FUNCTION: u8 = 1;
const STACK: u8 = 10;
const SPIN_LOCK: i32 = 93;
const SPIN_UNLOCK: i32 = 94;

/// One instruction (RFC 9669).
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    fn of(bytes: &[u8; WORD as usize]) -> Self {
        let [code, registers, a, b, c, d, e, f] = *bytes;
        Self {
            code,
            destination: registers & 0xf,
            source: registers >> 4,
            offset: i16::from_le_bytes([a, b]),
            number: i32::from_le_bytes([c, d, e, f]),
        }
    }

    fn is_helper(&self, helper: i32) -> bool {
        self.code == CALL && self.source == 0 && self.number == helper
    }

    fn is_call(&self) -> bool {
        self.code == CALL
    }

    /// Whether it is a jump that is neither a call nor the end: class JMP or JMP32.
    fn is_jump(&self) -> bool {
        matches!(self.code & 7, 5 | 6) && self.code != CALL && self.code != EXIT
    }

    /// How deep into the stack it reaches, `before` it another one.
    fn depth(&self, before: Option<&Self>) -> u32 {
        let base = match self.code & 7 {
            1 => self.source,          // load
            2 | 3 => self.destination, // store
            _ => u8::MAX,
        };
        if base == STACK {
            return u32::from(self.offset.min(0).unsigned_abs());
        }
        // The address of something on the stack: r1 = r10, r1 += -8.
        let address = before.is_some_and(|before| {
            before.code == MOVE_64
                && before.source == STACK
                && self.code == ADD_64
                && self.destination == before.destination
        });
        if address {
            self.number.min(0).unsigned_abs()
        } else {
            0
        }
    }
}

/// A function: its name, its instructions, and which others it calls or hands to helpers.
struct Function {
    name: String,
    code: Vec<Instruction>,
    /// Places in the object.
    calls: BTreeSet<Place>,
}

/// Section and offset.
type Place = (usize, u64);

impl Function {
    fn stack(&self) -> u32 {
        let before = std::iter::once(None).chain(self.code.iter().map(Some));
        let depths = self
            .code
            .iter()
            .zip(before)
            .map(|(it, before)| it.depth(before));
        depths
            .max()
            .unwrap_or(0)
            .max(1)
            .next_multiple_of(STACK_UNIT)
    }

    /// The first call that may be made while a lock is held, by its index.
    fn call_under_lock(&self) -> Option<usize> {
        let locks = (0..self.code.len()).filter(|at| self.code[*at].is_helper(SPIN_LOCK));
        let mut next: Vec<_> = locks.map(|at| at + 1).collect();
        let mut seen = BTreeSet::new();
        while let Some(at) = next.pop() {
            let Some(instruction) = self.code.get(at).filter(|_| seen.insert(at)) else {
                continue;
            };
            if instruction.is_helper(SPIN_UNLOCK) || instruction.code == EXIT {
                continue;
            }
            if instruction.is_call() {
                return Some(at);
            }
            let words = if instruction.code == LOAD_64 { 2 } else { 1 };
            if instruction.code != GOTO {
                next.push(at + words);
            }
            if instruction.is_jump() {
                next.extend((at + 1).checked_add_signed(instruction.offset.into()));
            }
        }
        None
    }
}

/// Refuses an object that Linux 6.1 would refuse for one of these reasons.
///
/// # Errors
/// What is wrong, and with which function; or the object cannot be read.
pub(crate) fn ensure_kept(object: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(object).with_context(|| object.display().to_string())?;
    let functions = functions(&bytes).with_context(|| object.display().to_string())?;
    for function in functions.values() {
        if let Some(at) = function.call_under_lock() {
            bail!(
                "{} holds a lock at its instruction {at}, a call",
                function.name
            );
        }
    }
    for place in functions.keys() {
        let (stack, chain) = deepest(&functions, *place, 0)?;
        ensure!(
            stack <= MAX_STACK,
            "{} take {stack} bytes of stack together, of {MAX_STACK}",
            chain.join(" > ")
        );
    }
    Ok(())
}

/// What a function and those that it calls take of the stack at most, and their names.
fn deepest(
    functions: &BTreeMap<Place, Function>,
    place: Place,
    level: usize,
) -> anyhow::Result<(u32, Vec<&str>)> {
    let function = functions
        .get(&place)
        .context("a call leads to no function")?;
    ensure!(level < 8, "{}: more than eight calls deep", function.name);
    let mut most = (0, Vec::new());
    for called in &function.calls {
        let below = deepest(functions, *called, level + 1)?;
        if below.0 > most.0 {
            most = below;
        }
    }
    most.0 += function.stack();
    most.1.insert(0, &function.name);
    Ok(most)
}

fn functions(bytes: &[u8]) -> anyhow::Result<BTreeMap<Place, Function>> {
    let file = ElfFile64::<LittleEndian>::parse(bytes)?;
    let mut functions = BTreeMap::new();
    for section in file.sections().filter(|it| it.kind() == SectionKind::Text) {
        let (words, _) = section.data()?.as_chunks();
        let code: Vec<_> = words.iter().map(Instruction::of).collect();
        let calls = calls(&file, &section, &code)?;
        for symbol in file.symbols() {
            if symbol.section_index() != Some(section.index()) || symbol.size() == 0 {
                continue;
            }
            let (start, end) = (symbol.address(), symbol.address() + symbol.size());
            let indexes = usize::try_from(start / WORD)?..usize::try_from(end / WORD)?;
            let function = Function {
                name: symbol.name()?.to_owned(),
                code: code
                    .get(indexes)
                    .context("a symbol beyond its section")?
                    .to_vec(),
                calls: calls.range(start..end).map(|(_, place)| *place).collect(),
            };
            functions.insert((section.index().0, start), function);
        }
    }
    Ok(functions)
}

/// From where in a section which functions are called, or handed to helpers. A relocation says better
/// what an instruction can only say of its own section.
fn calls(
    file: &ElfFile64<'_, LittleEndian>,
    section: &object::read::elf::ElfSection64<'_, '_, LittleEndian>,
    code: &[Instruction],
) -> anyhow::Result<BTreeMap<u64, Place>> {
    let mut calls = BTreeMap::new();
    for (instruction, at) in code.iter().zip((0..).step_by(WORD as usize)) {
        if instruction.is_call() && instruction.source == OF_FUNCTION {
            let to = i64::try_from(at / WORD)? + 1 + i64::from(instruction.number);
            calls.insert(
                at,
                (section.index().0, u64::try_from(to).unwrap_or(0) * WORD),
            );
        }
    }
    for (at, relocation) in section.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            continue;
        };
        let symbol = file.symbol_by_index(symbol)?;
        let Some(target) = symbol.section_index() else {
            continue;
        };
        if file.section_by_index(target)?.kind() != SectionKind::Text {
            continue;
        }
        let instruction = code
            .get(usize::try_from(at / WORD)?)
            .context("a relocation of nothing")?;
        let addend = if instruction.is_call() {
            (i64::from(instruction.number) + 1) * WORD as i64
        } else {
            i64::from(instruction.number)
        };
        let to = symbol
            .address()
            .checked_add_signed(addend)
            .context("a call to nowhere")?;
        calls.insert(at, (target.0, to));
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(words: &[[u8; 8]]) -> Function {
        Function {
            name: "f".to_owned(),
            code: words.iter().map(Instruction::of).collect(),
            calls: BTreeSet::new(),
        }
    }

    const LOCK: [u8; 8] = [CALL, 0, 0, 0, 93, 0, 0, 0];
    const UNLOCK: [u8; 8] = [CALL, 0, 0, 0, 94, 0, 0, 0];
    const COPY: [u8; 8] = [CALL, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff];
    const END: [u8; 8] = [EXIT, 0, 0, 0, 0, 0, 0, 0];
    /// `if r1 == 0 goto +1`
    const SKIP_ONE: [u8; 8] = [0x15, 1, 1, 0, 0, 0, 0, 0];

    #[test]
    fn calls_under_a_lock_are_found_on_every_path() {
        let after = function(&[LOCK, UNLOCK, COPY, END]);
        assert_eq!(after.call_under_lock(), None);
        let within = function(&[LOCK, COPY, UNLOCK, END]);
        assert_eq!(within.call_under_lock(), Some(1));
        let by_one_path = function(&[LOCK, SKIP_ONE, UNLOCK, COPY, END]);
        assert_eq!(by_one_path.call_under_lock(), Some(3));
    }

    #[test]
    fn the_stack_is_what_loads_stores_and_addresses_reach() {
        // *(u64 *)(r10 - 40) = r1
        assert_eq!(
            function(&[[0x7b, 0x1a, 0xd8, 0xff, 0, 0, 0, 0], END]).stack(),
            64
        );
        // r1 = *(u64 *)(r10 - 32)
        assert_eq!(
            function(&[[0x79, 0xa1, 0xe0, 0xff, 0, 0, 0, 0], END]).stack(),
            32
        );
        // r1 = r10, r1 += -72
        let address = [
            [MOVE_64, 0xa1, 0, 0, 0, 0, 0, 0],
            [ADD_64, 0x01, 0, 0, 0xb8, 0xff, 0xff, 0xff],
            END,
        ];
        assert_eq!(function(&address).stack(), 96);
    }

    #[test]
    fn the_committed_object_keeps_them() {
        let object = crate::shell::root().join(crate::record::OBJECT);
        ensure_kept(&object).unwrap();
        let functions = functions(&std::fs::read(object).unwrap()).unwrap();
        let called: usize = functions
            .values()
            .map(|function| function.calls.len())
            .sum();
        let locks = |function: &&Function| function.code.iter().any(|it| it.is_helper(SPIN_LOCK));
        assert!(
            called > 0 && functions.values().any(|it| locks(&it)),
            "nothing was looked at"
        );
    }
}
