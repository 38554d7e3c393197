// Classifies photos with the model of this folder, as reference.py does.
//
// Into the app: model.tflite, labels.txt and preprocess.json go to src/main/assets, this file to the sources, and
//     implementation("com.google.ai.edge.litert:litert:1.4.0")
// to the dependencies. The model is memory-mapped: keep it uncompressed, androidResources { noCompress += "tflite" }.
//
// The answers are those that were measured only where pixels are made as in training. Android's own scaling takes
// the nearest four pixels; `resize` below averages over all of them, as Pillow does. It does not follow the decoding
// of large JPEGs at a fraction of their size, which moves logits a little: golden.json has photos to compare with.

import android.content.Context
import android.graphics.Bitmap
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.MappedByteBuffer
import java.nio.channels.FileChannel
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt
import org.json.JSONArray
import org.json.JSONObject
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter

data class Answer(val label: String, val probability: Float)

/** For one thread; close it when it is no longer needed. */
class Classifier(context: Context, threads: Int = 2) : AutoCloseable {
    private val rule = JSONObject(context.assets.open("preprocess.json").bufferedReader().readText())
    private val labels = context.assets.open("labels.txt").bufferedReader().readLines()
    private val interpreter = Interpreter(mapped(context, "model.tflite"), Interpreter.Options().setNumThreads(threads))
    private val crop = rule.getJSONArray("crop")
    private val height = crop.getInt(0)
    private val width = crop.getInt(1)

    /** photo: upright; a camera's photo has to be turned by its EXIF orientation first. */
    fun classify(photo: Bitmap): Answer {
        val logits = logits(pixelsOf(photo))
        val best = logits.indices.maxBy { logits[it] }
        return Answer(labels[best], probabilities(logits)[best])
    }

    /** The logits of height x width x 3 values from 0 to 255, row by row, red first. */
    fun logits(pixels: FloatArray): FloatArray {
        val taken = interpreter.getInputTensor(0)
        val given = interpreter.getOutputTensor(0)
        val input = ByteBuffer.allocateDirect(taken.numBytes()).order(ByteOrder.nativeOrder())
        val mean = rule.getJSONArray("mean")
        val std = rule.getJSONArray("std")
        val white = rule.getDouble("white")
        val swapped = rule.getString("channels") == "BGR"
        val last = rule.getJSONObject("input").getString("layout") == "NHWC"
        for (i in 0 until height * width * 3) {
            // The position in the tensor, and the pixel and channel that belong there.
            val channel = if (last) i % 3 else i / (height * width)
            val pixel = if (last) i / 3 else i % (height * width)
            val value = pixels[3 * pixel + if (swapped) 2 - channel else channel]
            val scaled = ((value / white - mean.getDouble(channel)) / std.getDouble(channel)).toFloat()
            when (taken.dataType()) {
                DataType.FLOAT32 -> input.putFloat(scaled)
                else -> {
                    val q = taken.quantizationParams()
                    val low = if (taken.dataType() == DataType.UINT8) 0 else -128
                    input.put((scaled / q.scale + q.zeroPoint).roundToInt().coerceIn(low, low + 255).toByte())
                }
            }
        }
        input.rewind()
        val output = ByteBuffer.allocateDirect(given.numBytes()).order(ByteOrder.nativeOrder())
        interpreter.run(input, output)
        output.rewind()
        return FloatArray(labels.size) {
            if (given.dataType() == DataType.FLOAT32) return@FloatArray output.getFloat()
            val q = given.quantizationParams()
            val stored = output.get().toInt()
            val whole = if (given.dataType() == DataType.UINT8) stored and 0xFF else stored
            (whole - q.zeroPoint) * q.scale
        }
    }

    fun probabilities(logits: FloatArray): FloatArray {
        if (rule.getString("outputs") == "probabilities") {
            val sum = logits.sumOf { max(it, 0f).toDouble() }
            return FloatArray(logits.size) { (max(logits[it], 0f) / sum).toFloat() }
        }
        val largest = logits.max()
        val powers = DoubleArray(logits.size) { exp((logits[it] - largest).toDouble()) }
        val sum = powers.sum()
        return FloatArray(logits.size) { (powers[it] / sum).toFloat() }
    }

    private fun pixelsOf(photo: Bitmap): FloatArray {
        val (across, down) = resizedSize(photo.width, photo.height)
        val left = cropStart(across, width)
        val top = cropStart(down, height)
        val argb = IntArray(photo.width * photo.height)
        photo.getPixels(argb, 0, photo.width, 0, 0, photo.width, photo.height)
        val whole = FloatArray(argb.size * 3) { ((argb[it / 3] shr (16 - 8 * (it % 3))) and 0xFF).toFloat() }
        val resized = resize(whole, photo.width, photo.height, across, down, rule.getString("interpolation"))
        val fill = rule.optJSONArray("fill") ?: JSONArray(listOf(0, 0, 0))
        return FloatArray(height * width * 3) {
            val x = it / 3 % width + left
            val y = it / 3 / width + top
            val inside = x in 0 until across && y in 0 until down
            if (inside) resized[(y * across + x) * 3 + it % 3] else fill.getDouble(it % 3).toFloat()
        }
    }

    private fun resizedSize(photoWidth: Int, photoHeight: Int): Pair<Int, Int> {
        val (high, wide) = rule.getJSONArray("resize").let { it.getInt(0) to it.getInt(1) }
        val mode = rule.getString("resize_mode")
        if (mode == "squeeze") return wide to high
        val byHeight = (high.toLong() * photoWidth > wide.toLong() * photoHeight) == (mode == "shorter")
        val scale = if (byHeight) high.toDouble() / photoHeight else wide.toDouble() / photoWidth
        val cut = rule.getString("rounding") in listOf("torchvision", "transformers")
        fun side(length: Int) = max(1, if (cut) (length * scale + 1e-9).toInt() else Math.rint(length * scale).toInt())
        return if (byHeight) side(photoWidth) to high else wide to side(photoHeight)
    }

    private fun cropStart(side: Int, kept: Int): Int = when {
        rule.getString("rounding") == "transformers" -> Math.floorDiv(side - kept, 2)
        side < kept -> -((kept - side) / 2)
        rule.getString("rounding") == "albumentations" -> (side - kept) / 2
        else -> Math.rint((side - kept) / 2.0).toInt()
    }

    private fun mapped(context: Context, name: String): MappedByteBuffer =
        context.assets.openFd(name).use { file ->
            FileInputStream(file.fileDescriptor).channel.map(
                FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
        }

    override fun close() = interpreter.close()
}

/** Pillow's resizing: every pixel counts when a photo is made smaller. values: row by row, 3 to a pixel. */
fun resize(values: FloatArray, width: Int, height: Int, across: Int, down: Int, filter: String): FloatArray =
    along(along(values, width, height, across, filter, rows = false), across, height, down, filter, rows = true)

private fun along(
    values: FloatArray, width: Int, height: Int, size: Int, filter: String, rows: Boolean
): FloatArray {
    val length = if (rows) height else width
    val others = if (rows) width else height
    val scale = length.toDouble() / size
    val stretch = max(scale, 1.0)
    val reach = stretch * support(filter)
    val result = FloatArray(size * others * 3)
    for (i in 0 until size) {
        val centre = (i + 0.5) * scale
        val first = max((centre - reach + 0.5).toInt(), 0)
        val after = min((centre + reach + 0.5).toInt(), length)
        val weights = DoubleArray(after - first) { weight(filter, (first + it + 0.5 - centre) / stretch) }
        val sum = weights.sum()
        for (other in 0 until others) for (channel in 0..2) {
            var total = 0.0
            for (k in weights.indices) {
                val at = if (rows) (first + k) * width + other else other * width + first + k
                total += weights[k] * values[at * 3 + channel]
            }
            val to = if (rows) i * width + other else other * size + i
            // Whole numbers between the two passes, as in Pillow.
            result[to * 3 + channel] = (total / sum).roundToInt().coerceIn(0, 255).toFloat()
        }
    }
    return result
}

private fun support(filter: String): Double = when (filter) {
    "bicubic" -> 2.0
    "lanczos" -> 3.0
    "bilinear", "hamming" -> 1.0
    else -> 0.5
}

private fun weight(filter: String, at: Double): Double {
    val x = abs(at)
    fun sinc(y: Double) = if (y == 0.0) 1.0 else Math.sin(Math.PI * y) / (Math.PI * y)
    return when (filter) {
        "bilinear" -> max(0.0, 1 - x)
        "bicubic" -> if (x < 1) (1.5 * x - 2.5) * x * x + 1 else if (x < 2) ((-0.5 * x + 2.5) * x - 4) * x + 2 else 0.0
        "lanczos" -> if (x < 3) sinc(x) * sinc(x / 3) else 0.0
        "hamming" -> if (x < 1) sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) else 0.0
        else -> if (at > -0.5 && at <= 0.5) 1.0 else 0.0
    }
}
