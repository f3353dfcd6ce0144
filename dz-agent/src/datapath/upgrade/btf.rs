//! Reads BTF, the kernel's own description of a map's types, as far as maps of ours use it
//! (Documentation/bpf/btf.rst).

/// A type, as it lies in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A number of so many bytes.
    Number(usize),
    /// An enum of so many bytes: its names, each with its number.
    Enum(usize, Vec<(String, u32)>),
    /// So many values of one type.
    Array(Box<Shape>, usize),
    /// Named fields.
    Struct(Struct),
}

/// A struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Struct {
    pub(super) name: String,
    /// In bytes.
    pub(super) size: usize,
    pub(super) fields: Vec<Field>,
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// In bytes, from the start of the struct.
    pub(super) offset: usize,
    pub(super) shape: Shape,
}

impl Shape {
    /// Returns how many bytes a value takes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Number(size) | Self::Enum(size, _) => *size,
            Self::Array(element, count) => element.size() * count,
            Self::Struct(r#struct) => r#struct.size,
        }
    }

    /// Returns a field of a struct by its name.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        match self {
            Self::Struct(found) => found.fields.iter().find(|field| field.name == name),
            _ => None,
        }
    }
}

// Kinds of types.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;
/// `struct btf_type`.
const HEAD: usize = 12;
/// Types within types; ours are flat, and a type cannot contain itself.
const DEPTH: u32 = 16;

/// BTF with the place of every type.
pub(super) struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    types: Vec<usize>,
}

impl<'a> Btf<'a> {
    /// Finds the types. None: it is no BTF that we understand.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u32 = 0xeb9f;
        if number(bytes, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = number(bytes, 4)? as usize;
        let start = header + number(bytes, 8)? as usize;
        let end = start + number(bytes, 12)? as usize;
        let strings = header + number(bytes, 16)? as usize;
        // Type 0 is void and not there.
        let mut types = vec![usize::MAX];
        let mut at = start;
        while at < end {
            types.push(at);
            let (kind, count) = head(bytes, at)?;
            at += HEAD
                + match kind {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
                    ENUM | FUNC_PROTO => 8 * count,
                    _ => 0,
                };
        }
        Some(Self {
            bytes,
            strings,
            types,
        })
    }

    /// Reads a type by its id; none if it is of a kind that maps of ours do not use.
    pub(super) fn shape(&self, id: u32) -> Option<Shape> {
        self.shape_at(id, DEPTH)
    }

    fn shape_at(&self, id: u32, depth: u32) -> Option<Shape> {
        let depth = depth.checked_sub(1)?;
        let at = *self.types.get(id as usize)?;
        let (kind, count) = head(self.bytes, at)?;
        let size_or_type = number(self.bytes, at + 8)?;
        let extra = at + HEAD;
        match kind {
            INT => Some(Shape::Number(size_or_type as usize)),
            TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => self.shape_at(size_or_type, depth),
            ARRAY => {
                let element = self.shape_at(number(self.bytes, extra)?, depth)?;
                let count = number(self.bytes, extra + 8)? as usize;
                Some(Shape::Array(Box::new(element), count))
            }
            ENUM => {
                let value = |index| {
                    let at = extra + 8 * index;
                    Some((self.name(at)?, number(self.bytes, at + 4)?))
                };
                let values = (0..count).map(value).collect::<Option<_>>()?;
                Some(Shape::Enum(size_or_type as usize, values))
            }
            STRUCT => {
                let field = |index| self.field(extra + 12 * index, depth);
                Some(Shape::Struct(Struct {
                    name: self.name(at)?,
                    size: size_or_type as usize,
                    fields: (0..count).map(field).collect::<Option<_>>()?,
                }))
            }
            _ => None,
        }
    }

    fn field(&self, at: usize, depth: u32) -> Option<Field> {
        let bits = number(self.bytes, at + 8)? as usize;
        // No bit fields: the offset is then in bits, and all of it.
        if !bits.is_multiple_of(8) {
            return None;
        }
        Some(Field {
            name: self.name(at)?,
            offset: bits / 8,
            shape: self.shape_at(number(self.bytes, at + 4)?, depth)?,
        })
    }

    /// Reads the string whose offset is stored at `at`.
    fn name(&self, at: usize) -> Option<String> {
        let start = self.strings + number(self.bytes, at)? as usize;
        let text = self.bytes.get(start..)?;
        let text = text.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Reads kind and number of members of the type at `at`.
fn head(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let info = number(bytes, at + 4)?;
    Some(((info >> 24) & 0x1f, (info & 0xffff) as usize))
}

/// Reads a number in the machine's byte order, as the kernel has it.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}
